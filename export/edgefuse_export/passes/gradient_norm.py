"""From the gradient as torch gives it to train.onnx: the gradients' norm in the outputs' place."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from edgefuse_export.passes.free_vocabulary import scatter_into_zeros
from edgefuse_export.passes.norm_weights import NormWeight

_ONE_SUM = 1 << 20
"""Elements up to which float32 sums all squares at once to 1e-5."""


def finish_training_graph(
    model: ir.Model,
    *,
    outputs: Collection[str],
    trainable: Sequence[str],
    weights: Mapping[str, NormWeight],
) -> None:
    """Take the task's outputs out and add the gradients' norm, in place.

    Args:
        model: What `gradient_graph` returned, simplified, its tensors inputs.
        outputs: Names of the task's outputs.
        trainable: Names of trained parameters.
        weights: Weights of the gradients in the norm, by parameter; others weigh 1.
    """
    graph = model.graph
    for value in [value for value in graph.outputs if value.name in outputs]:
        graph.outputs.remove(value)
    gradients = {value.name: value for value in graph.outputs}
    norm = add_norm(graph, {name: gradients[f"gradient.{name}"] for name in trainable}, weights)
    graph.outputs.insert(1, norm)


def add_norm(
    graph: ir.Graph, gradients: Mapping[str, ir.Value], weights: Mapping[str, NormWeight]
) -> ir.Value:
    """Add √Σ (weight · g)², the weight being 1/√n for the n neurons of a fused row.

    An embedding's rows are summed before they are added up: one float32 sum over millions of
    elements loses digits. Rows of tokens that do not occur are zero, and left out.

    Args:
        graph: The graph to add to, whose outputs do not change.
        gradients: Gradients by parameter.
        weights: Weights by parameter; others weigh 1.

    Returns:
        The norm, a scalar `gradient_norm`.
    """
    recorder = tape.Tape(graph)
    last_axis = recorder.initializer(ir.tensor(np.array([-1]), name="gradient_norm.last_axis"))

    def constant(name: str, value: np.ndarray) -> ir.Value:
        tensor = ir.tensor(value.astype(np.float32), name=f"gradient_norm.{name}")
        return recorder.initializer(tensor)

    squares = []
    for name, whole in gradients.items():
        gradient = whole
        assert gradient.shape is not None
        rank, small = len(gradient.shape), _elements(gradient) <= _ONE_SUM
        if (scatter := scatter_into_zeros(gradient)) is not None:
            _, _, sums = scatter.inputs
            assert sums is not None
            gradient = sums
        weight = weights.get(name)
        if weight is not None and 0 < weight.axis == rank - 1:
            gradient = recorder.op("Mul", [gradient, constant(name, weight.broadcast(rank))])
            weight = None
        if weight is None and small:
            squares.append(recorder.op("ReduceSumSquare", [gradient], {"keepdims": 0}))
            continue
        if rank == 1:
            rows = recorder.op("Mul", [gradient, gradient])
        else:
            rows = recorder.op("ReduceSumSquare", [gradient, last_axis], {"keepdims": 0})
        if weight is not None:
            squared = np.square(weight.broadcast(rank))
            of_rows = squared if rank == 1 else squared[..., 0]
            rows = recorder.op("Mul", [rows, constant(name, of_rows)])
        squares.append(recorder.op("ReduceSum", [rows], {"keepdims": 0}))
    norm = recorder.op("Sqrt", [recorder.op("Sum", squares)])
    norm.name = "gradient_norm"
    norm.type, norm.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return norm


def _elements(value: ir.Value) -> float:
    """Count of elements; endless where a dimension may be any."""
    assert value.shape is not None
    return math.prod(value.shape.numpy()) if value.shape.is_static() else math.inf
