"""A scatter into zeros that are added to something becomes a scatter into that."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir import tape

from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_export.passes.scatter_into_sum import scatter_into_sums

FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


def graph(*, read_twice: bool, constant: float = 0.0, swapped: bool = False) -> ir.Model:
    """y = x + scattered ones, with a free count of rows."""
    shape = ir.Shape(["rows", 5])
    x = ir.Value(name="x", type=FLOAT, shape=shape)
    indices = ir.Value(name="indices", type=INT64, shape=ir.Shape(["rows", 1]))
    updates = ir.Value(name="updates", type=FLOAT, shape=ir.Shape(["rows", 1]))
    recorder = tape.Tape()
    value = ir.tensor(np.array([constant], np.float32))
    zeros = recorder.op("ConstantOfShape", [recorder.op("Shape", [x])], {"value": value})
    scattered = recorder.op(
        "ScatterElements", [zeros, indices, updates], {"axis": 1, "reduction": "add"}
    )
    scattered.type, scattered.shape = FLOAT, shape
    y = recorder.op("Add", [scattered, x] if swapped else [x, scattered])
    y.name, y.type, y.shape = "y", FLOAT, shape
    outputs = [y]
    if read_twice:
        z = recorder.op("Neg", [scattered])
        z.name, z.type, z.shape = "z", FLOAT, shape
        outputs.append(z)
    made = ir.Graph([x, indices, updates], outputs, nodes=recorder.nodes, opset_imports={"": OPSET})
    return ir.Model(made, ir_version=IR_VERSION)


def run(model: ir.Model) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(4, 5)).astype(np.float32),
        "indices": rng.integers(5, size=(4, 1)),
        "updates": rng.normal(size=(4, 1)).astype(np.float32),
    }
    raw = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(raw).run(None, feeds)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_scatter_into_zeros_goes_into_what_they_are_added_to(swapped: bool) -> None:
    model = graph(read_twice=False, swapped=swapped)
    expected = run(model)
    assert scatter_into_sums(model.graph) == 1
    kinds = [node.op_type for node in model.graph]
    assert "Add" not in kinds
    assert "ConstantOfShape" not in kinds
    np.testing.assert_array_equal(run(model), expected)


@pytest.mark.parametrize("options", [{"read_twice": True}, {"read_twice": False, "constant": 1.0}])
def test_others_stay(options: dict[str, float]) -> None:
    model = graph(**options)
    assert scatter_into_sums(model.graph) == 0
