"""What an ONNX file may not have that came from a stranger, and what it may."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.onnx_graph import check_graph
from edgefuse_runtime.session import open_session

_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
_Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
_ROW_IN, _ROW_OUT = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "rs")


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", [_X], [_Y], [*initializers])
    opsets = [helper.make_opsetid(name, 1) for name in {node.domain for node in nodes} - {""}]
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), *opsets],
        ir_version=9,
        functions=[*functions],
    )
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def scan(body_nodes: Sequence[onnx.NodeProto], op_type: str = "Scan") -> onnx.NodeProto:
    body = helper.make_graph(body_nodes, "body", [_ROW_IN], [_ROW_OUT])
    return helper.make_node(op_type, ["x"], ["y"], body=body, num_scan_inputs=1)


def elsewhere(location: str | None) -> TensorProto:
    """An initializer whose data are in another file."""
    tensor = numpy_helper.from_array(np.ones((1, 2), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"])
INSIDE = helper.make_node("Add", ["r", "r"], ["s"])


def test_a_graph_with_scans_and_weights_in_its_folder_is_opened(tmp_path):
    check_graph(saved(tmp_path, [scan([INSIDE])]))
    (tmp_path / "w.bin").write_bytes(np.ones((1, 2), np.float32).tobytes())
    session = open_session(saved(tmp_path, [ADD], [elsewhere("w.bin")]), threads=1)
    (y,) = session.run(["y"], {"x": np.ones((3, 2), np.float32)})
    assert (y == 2).all()


def test_data_that_are_given_may_be_said_to_be_anywhere(tmp_path):
    file = saved(tmp_path, [ADD], [elsewhere("/nowhere/at/all")])
    given = {"w": np.full((1, 2), 3, np.float32)}
    session = open_session(file, threads=1, initializers=given)
    (y,) = session.run(["y"], {"x": np.ones((1, 2), np.float32)})
    assert (y == 4).all()


BAD_NODES = {
    "a loop": ([scan([INSIDE], "Loop")], "has the operator Loop"),
    "a loop in a scan": ([scan([helper.make_node("Loop", ["r"], ["s"])])], "operator Loop"),
    "another domain": ([helper.make_node("Shell", ["x"], ["y"], domain="evil")], "evil.Shell"),
    "a domain in a scan": (
        [scan([helper.make_node("Add", ["r", "r"], ["s"], domain="ai.onnx.ml")])],
        "operator ai.onnx.ml.Add",
    ),
}


@pytest.mark.parametrize("case", BAD_NODES)
def test_operators_that_no_exported_graph_has_are_refused(tmp_path, case):
    nodes, sentence = BAD_NODES[case]
    with pytest.raises(BundleError, match=sentence):
        open_session(saved(tmp_path, nodes), threads=1)


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret.bin", "..", "a/w.bin", "./w.bin", "", None, "link.bin", "a" * 5000],
)
def test_data_outside_of_the_folder_are_refused(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(b"secret")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(BundleError, match="outside its folder"):
        open_session(saved(tmp_path / "g", [ADD], [elsewhere(location)]), threads=1)


def test_so_are_those_of_constants(tmp_path):
    constant = helper.make_node("Constant", [], ["w"], value=elsewhere("/etc/passwd"))
    listed = helper.make_node("Constant", [], ["w"])
    listed.attribute.append(
        AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[elsewhere("/etc/passwd")])
    )
    for node in (constant, listed):
        with pytest.raises(BundleError, match="reads /etc/passwd, which is outside its folder"):
            check_graph(saved(tmp_path, [node, ADD]))


def test_only_the_graphs_own_initializers_are_given(tmp_path):
    constant = helper.make_node("Constant", [], ["w"], value=elsewhere("../secret"))
    with pytest.raises(BundleError, match=r"reads \.\./secret, which is outside its folder"):
        check_graph(saved(tmp_path, [constant, ADD]), given={"w"})


def test_names_that_are_no_text_are_refused(tmp_path):
    for what, good in (("has the operator", b"Add"), ("is outside its folder", b"w.bin")):
        raw = saved(tmp_path, [ADD], [elsewhere("w.bin")]).read_bytes()
        (tmp_path / "m.onnx").write_bytes(raw.replace(good, b"\xff" * len(good)))
        with pytest.raises(BundleError, match=what):
            check_graph(tmp_path / "m.onnx")


def test_functions_and_sparse_tensors_are_refused(tmp_path):
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], []
    )
    with pytest.raises(BundleError, match="has functions of its own"):
        check_graph(saved(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], functions=[function]))
    model = onnx.load(saved(tmp_path, [helper.make_node("Neg", ["x"], ["y"])]))
    model.graph.sparse_initializer.add()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="has sparse tensors"):
        check_graph(tmp_path / "m.onnx")
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0]), "i"), [3])
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    with pytest.raises(BundleError, match="has sparse tensors"):
        check_graph(saved(tmp_path, [node, ADD]))


def test_what_is_no_graph_is_refused(tmp_path):
    file = saved(tmp_path, [scan([INSIDE])])
    whole = file.read_bytes()
    for raw in (b"\xff" * 20, whole[:-3], os.urandom(4096)):
        file.write_bytes(raw)
        with pytest.raises(BundleError, match=r"m\.onnx (is no ONNX graph|has no graph)"):
            check_graph(file)
    for raw in (b"", onnx.ModelProto(ir_version=9).SerializeToString()):
        file.write_bytes(raw)
        with pytest.raises(BundleError, match="has no graph"):
            check_graph(file)
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        check_graph(tmp_path)


def test_graphs_in_graphs_without_end_are_no_graph(tmp_path):
    raw = b""
    for number in (6, 5, 1) * 100 + (7,):  # graph of an attribute of a node of a graph …
        raw = bytes([number << 3 | 2]) + varint(len(raw)) + raw
    (tmp_path / "m.onnx").write_bytes(raw)
    with pytest.raises(BundleError, match="is no ONNX graph"):
        check_graph(tmp_path / "m.onnx")


def varint(number: int) -> bytes:
    """A number as protocol buffers have it."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])
