"""Sessions are opened in one place, which keeps onnxruntime silent and fed from memory."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.session import open_session


def _scale_model(path, length=3):
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[length])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "absent.safetensors"), ("offset", "0"), ("length", "12")):
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", length])],
        [weight],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_initializers_come_from_memory_though_their_file_is_absent(tmp_path):
    weight = np.array([1, 2, 3], np.float32)
    session = open_session(_scale_model(tmp_path / "m.onnx"), threads=1, initializers={"w": weight})
    (y,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(y, [[1, 2, 3], [1, 2, 3]])


def test_a_file_that_is_no_model_is_one_sentence(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a protobuf")
    with pytest.raises(BundleError, match=r"cannot open .*m\.onnx"):
        open_session(tmp_path / "m.onnx", threads=1)


def test_telemetry_is_off_before_onnxruntime_is_imported():
    script = (
        "import os, edgefuse_runtime.session, sys\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == "1"


def test_a_missing_onnxruntime_says_what_to_install():
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edgefuse_runtime.session import onnxruntime\n"
        "onnxruntime()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "pip install 'edgefuse[runtime]'" in result.stderr
