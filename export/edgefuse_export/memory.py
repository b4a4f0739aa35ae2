"""What training will hold in memory, from the graph alone, and what a board has for it."""

import math
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
import sympy
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import optimizer

from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.passes.free_vocabulary import VOCABULARY
from edgefuse_export.silence import silence
from edgefuse_runtime.optimizers.optimizer import matrices

_SHARE_OF_MEMORY = 0.5
"""Share of the board's memory that training may take: the system and Python want the rest."""
_ALIASES = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}


def available_bytes(device: DeviceProfile) -> int:
    """What training may take of a board's memory."""
    return int(device.memory_mib * 2**20 * _SHARE_OF_MEMORY)


def activation_bytes(
    model: ir.Model,
    shapes: Mapping[str, Sequence[int]],
    *,
    vocabulary: int,
) -> int:
    """Peak of what a run of a training graph holds besides its inputs and gradients.

    Every value lives from the operator that makes it to the last that reads it; ONNX Runtime runs
    the operators in their order and gives memory back as it goes.

    Args:
        model: A training graph; it is not changed.
        shapes: Shapes of its inputs that are the batch's, by name.
        vocabulary: Rows of the embeddings that take any number of them.

    Returns:
        Bytes.
    """
    concrete = model.clone()
    inputs = {value.name: value for value in concrete.graph.inputs}
    sizes: dict[str, int] = {VOCABULARY: vocabulary}
    for name, given in shapes.items():
        shape = inputs[name].shape
        assert shape is not None
        sizes.update(zip(map(_symbol, shape), given, strict=True))
    for value in (*concrete.graph.inputs, *(v for n in concrete.graph for v in n.outputs)):
        if value.shape is not None:
            value.shape = _evaluate(value.shape, sizes)
    with silence("onnxscript"):
        optimizer.fold_constants(concrete, onnx_shape_inference=True)
    RemoveUnusedNodesPass()(concrete)
    return _peak(concrete.graph)


def update_bytes(optimizer: ir.Model, shapes: Iterable[Sequence[int]]) -> int:
    """Peak of what a step of an optimizer holds beside its inputs and outputs.

    Blocks of elements take next to nothing. Where the graph takes whole parameters, the largest
    decides.

    Args:
        optimizer: The optimizer's graph.
        shapes: Shapes of the parameters.

    Returns:
        Bytes.
    """
    parameter = next(value for value in optimizer.graph.inputs if value.name == "parameter")
    assert parameter.shape is not None
    largest = max(map(matrices, shapes), key=math.prod)
    if len(parameter.shape) != len(largest):
        return 0
    return activation_bytes(optimizer, {"parameter": largest}, vocabulary=0)


def _symbol(dimension: int | ir.SymbolicDim) -> str:
    return str(dimension.value if isinstance(dimension, ir.SymbolicDim) else dimension)


def _evaluate(shape: ir.Shape, sizes: Mapping[str, int]) -> ir.Shape | None:
    """The shape with numbers for its symbols, such as `12*s72`; None where one is unknown."""
    dimensions = []
    for dimension in shape:
        size = sympy.sympify(_symbol(dimension), locals=sizes) if _symbol(dimension) else None
        if size is None or not getattr(size, "is_Integer", isinstance(size, int)):
            return None
        dimensions.append(int(size))
    return ir.Shape(dimensions)


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
        return 0  # a scalar's kin: what is of the batch's size has its shape from torch
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
