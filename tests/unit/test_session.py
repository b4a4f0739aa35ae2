"""Sessions are opened in one place, which keeps onnxruntime silent and small."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefuse_devices.errors import BundleError, InputError
from edgefuse_runtime.session import open_session, run_bound

_ROWS, _COLUMNS = 2048, 4096  # 32 MiB


def _transposed_product(folder):
    np.ones((_ROWS, _COLUMNS), np.float32).tofile(folder / "weight.bin")
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    x, z = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", _COLUMNS]) for name in "xz"
    )
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [_ROWS, _COLUMNS])
    graph = helper.make_graph(nodes, "product", [x, w], [z])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "m.onnx")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
def test_weights_that_are_inputs_are_not_copied_out_of_their_file(tmp_path):
    _transposed_product(tmp_path)
    script = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from edgefuse_runtime.session import onnxruntime, open_session\n"
        "def anonymous():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('RssAnon:')[1].split()[0]) / 1024\n"
        "onnxruntime()\n"
        "before = anonymous()\n"
        "binding = (session := open_session(Path('m.onnx'), threads=1)).io_binding()\n"
        f"w = np.memmap('weight.bin', np.float32, 'r', shape=({_ROWS}, {_COLUMNS}))\n"
        "binding.bind_cpu_input('w', w)\n"
        f"binding.bind_cpu_input('x', np.ones((4, {_COLUMNS}), np.float32))\n"
        "binding.bind_output('z', 'cpu')\n"
        "session.run_with_iobinding(binding)\n"
        "(z,) = binding.copy_outputs_to_cpu()\n"
        f"assert (z == {_ROWS * _COLUMNS}).all()\n"
        "print(anonymous() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 16  # a copy has 32


def test_a_model_that_onnxruntime_refuses_is_one_sentence(tmp_path):
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Unheard", [], ["y"])], "g", [], [y])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(BundleError, match=r"cannot open .*m\.onnx"):
        open_session(tmp_path / "m.onnx", threads=1)


def _given(node, folder):
    """A session of an operator that takes an index, and a binding of it."""
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    table = numpy_helper.from_array(np.ones((3, 2), np.float32), "table")
    opset = helper.make_opsetid("", 17)
    graph = helper.make_graph([node], "g", [i], [y], [table])
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "m.onnx")
    session = open_session(folder / "m.onnx", threads=1)
    binding = session.io_binding()
    binding.bind_output("y", "cpu")
    return session, binding


def test_a_graph_that_fails_is_a_sentence(tmp_path):
    session, binding = _given(helper.make_node("Gather", ["table", "i"], ["y"]), tmp_path)
    binding.bind_cpu_input("i", np.array([2]))
    run_bound(session, binding)
    binding.bind_cpu_input("i", np.array([7]))
    with pytest.raises(BundleError, match=r"a graph of the bundle failed: .* out of data bounds"):
        run_bound(session, binding)


def test_a_graph_for_which_there_is_no_memory_is_a_sentence(tmp_path):
    session, binding = _given(helper.make_node("ConstantOfShape", ["i"], ["y"]), tmp_path)
    binding.bind_cpu_input("i", np.array([1 << 50]))
    with pytest.raises(InputError, match="there is not enough memory"):
        run_bound(session, binding)


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


_FILLING = """
import sys
from pathlib import Path

import numpy as np

from edgefuse_devices.errors import InputError
from edgefuse_runtime import session
from edgefuse_runtime.machine import memory

memory.obtainable = lambda: 100 << 20
opened = session.open_session(Path(sys.argv[1]), threads=1)
for count in (1 << 20, 1 << 26):  # 4 MiB and 256
    binding = opened.io_binding()
    binding.bind_cpu_input("i", np.array([count], np.int64))
    binding.bind_output("y", "cpu")
    try:
        session.run_bound(opened, binding)
    except InputError as error:
        print(error)
    else:
        print(binding.copy_outputs_to_cpu()[0])
"""


def test_a_graph_gets_no_memory_that_the_machine_does_not_have(tmp_path):
    i = helper.make_tensor_value_info("i", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    one = numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["i"], ["filled"], value=one),
        helper.make_node("ReduceSum", ["filled"], ["y"], keepdims=0),
    ]
    opset = helper.make_opsetid("", 17)
    graph = helper.make_graph(nodes, "g", [i], [y])
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "m.onnx")
    command = [sys.executable, "-c", _FILLING, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    filled, refused = done.stdout.splitlines()
    assert float(filled) == 1 << 20
    assert "memory" in refused
