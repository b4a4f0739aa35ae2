"""What training will hold in memory, from the graph alone."""

import math

import onnx_ir as ir

from edgefuse_export.module import INPUTS
from edgefuse_export.simplify import simplify

_ALIASES = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}


def activation_bytes(model: ir.Model, *, batch_size: int, sequence_length: int) -> int:
    """Peak of what a run of a training graph holds besides its inputs and gradients.

    Every value lives from the operator that makes it to the last that reads it; ONNX Runtime runs
    the operators in their order and gives memory back as it goes.

    Args:
        model: A training graph; it is not changed.
        batch_size: Rows.
        sequence_length: Tokens in a row.

    Returns:
        Bytes.
    """
    concrete = model.clone()
    tokens = (batch_size, sequence_length)
    sizes = {**dict.fromkeys(INPUTS, tokens), "labels": (batch_size,)}
    for value in concrete.graph.inputs:
        if value.name in sizes:
            value.shape = ir.Shape(sizes[value.name])
        elif value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else 1 for d in value.shape])
    for node in concrete.graph:
        for output in node.outputs:
            if output.shape is not None and not output.shape.is_static():
                output.shape = None
    simplify(concrete)
    return _peak(concrete.graph)


def _peak(graph: ir.Graph) -> int:
    owners: dict[ir.Value, ir.Value] = {}
    last_use: dict[ir.Value, int] = {}
    nodes = list(graph)
    given = {*graph.inputs, *graph.outputs}
    for step, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                last_use[owners.get(value, value)] = step
        if node.op_type in _ALIASES and node.inputs[0] is not None:
            owners[node.outputs[0]] = owners.get(node.inputs[0], node.inputs[0])
    living: dict[ir.Value, int] = {}
    peak = 0
    for step, node in enumerate(nodes):
        for output in node.outputs:
            if output not in owners and output not in given:
                living[output] = _bytes(output)
        peak = max(peak, sum(living.values()))
        living = {value: size for value, size in living.items() if last_use.get(value, -1) > step}
    return peak


def _bytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return 0
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
