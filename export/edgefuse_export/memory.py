"""What training will hold in memory, from the graph alone, and what a board has for it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TypeAlias

import onnx_ir as ir
import sympy
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import optimizer

from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.passes.free_vocabulary import VOCABULARY
from edgefuse_export.silence import silence
from edgefuse_runtime.graph.footprint import Footprint, Term, largest
from edgefuse_runtime.optimizers.optimizer import matrices

Shapes: TypeAlias = Callable[[int, int], Mapping[str, Sequence[int]]]
"""Shapes of a graph's inputs that are the batch's, by name, for rows and tokens."""

_SHARE_OF_MEMORY = 0.5
"""Share of the board's memory that training may take: the system and Python want the rest."""
_ROWS, _TOKENS = 4, 8  # no more than any model has positions for, twice
_SIZES = (_ROWS, _TOKENS), (2 * _ROWS, _TOKENS), (_ROWS, 2 * _TOKENS)
"""Sizes of batch at which sizes of values are looked at."""
_EXACT = 1e-6
_ALIASES = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}


def available_bytes(device: DeviceProfile) -> int:
    """What training may take of a board's memory."""
    return int(device.memory_mib * 2**20 * _SHARE_OF_MEMORY)


def footprint(
    model: ir.Model,
    shapes: Shapes,
    *,
    vocabulary: int,
) -> Footprint:
    """What a run of a graph holds besides its inputs and bound outputs, for any size of batch.

    Every value lives from the operator that makes it to the last that reads it; ONNX Runtime runs
    the operators in their order and gives memory back as it goes. A value's size is a number times
    powers of the batch's rows and tokens, which three sizes of batch show.

    Args:
        model: A graph; it is not changed.
        shapes: Gives the shapes of its inputs that are the batch's, by name, for rows and tokens.
        vocabulary: Rows of the embeddings that take any number of them.
    """
    graph, *grown = (_concrete(model, shapes(*size), vocabulary) for size in _SIZES)
    more_rows, more_tokens = (
        {str(value.name): _bytes(value) for node in other for value in node.outputs}
        for other in grown
    )
    sums: Counter[tuple[int, int]] = Counter()
    moments = []
    for born, dead in _lives(graph):
        for sign, values in ((1, born), (-1, dead)):
            for value in values:
                name, size = str(value.name), _bytes(value)
                power = _power(more_rows.get(name, size), size)
                sums[power, _power(more_tokens.get(name, size), size)] += sign * size
            if values is born and born:
                moments.append([_of_power(size, *power) for power, size in sums.items() if size])
    return Footprint(largest(moments))


def output_terms(model: ir.Model, shapes: Shapes, *, vocabulary: int) -> dict[str, Term]:
    """Bytes of a graph's outputs by their names, for any size of batch.

    Args:
        model: A graph; it is not changed.
        shapes: Gives the shapes of its inputs that are the batch's, by name, for rows and tokens.
        vocabulary: Rows of the embeddings that take any number of them.
    """
    found = [_concrete(model, shapes(*size), vocabulary).outputs for size in _SIZES]
    return {
        str(one.name): _term(_bytes(one), _bytes(more_rows), _bytes(more_tokens))
        for one, more_rows, more_tokens in zip(*found, strict=True)
    }


def tensor_term(shapes: Callable[[int, int], Sequence[int]], itemsize: int) -> Term:
    """Bytes of a tensor, for any size of batch.

    Args:
        shapes: Gives its shape for rows and tokens.
        itemsize: Bytes of an element.
    """
    return _term(*(math.prod(shapes(*size)) * itemsize for size in _SIZES))


def _term(size: int, more_rows: int, more_tokens: int) -> Term:
    """Bytes at the first of `_SIZES`, and at the others, as a number times powers."""
    return _of_power(size, _power(more_rows, size), _power(more_tokens, size))


def _of_power(size: int, rows: int, tokens: int) -> Term:
    """Bytes at the first of `_SIZES`, as a number times powers."""
    return Term(size / (_ROWS**rows * _TOKENS**tokens), rows, tokens)


@cache
def _power(more: int, size: int) -> int:
    """The power by which a size grows where something is doubled, rounded up."""
    return math.ceil(math.log2(more / size) - _EXACT) if size and more > size else 0


def _concrete(model: ir.Model, shapes: Mapping[str, Sequence[int]], vocabulary: int) -> ir.Graph:
    """A copy of a graph whose shapes are numbers."""
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
    return concrete.graph


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
    now = most = 0
    for born, dead in _lives(_concrete(optimizer, {"parameter": largest}, 0)):
        now += sum(map(_bytes, born))
        most = max(most, now)
        now -= sum(map(_bytes, dead))
    return most


def _symbol(dimension: int | ir.SymbolicDim) -> str:
    return str(dimension.value if isinstance(dimension, ir.SymbolicDim) else dimension)


def _evaluate(shape: ir.Shape, sizes: Mapping[str, int]) -> ir.Shape | None:
    """The shape with numbers for its symbols, such as `12*s72`; None where one is unknown."""
    given = tuple(sizes.items())
    found = [_number(_symbol(dimension), given) for dimension in shape]
    return None if None in found else ir.Shape(found)


@lru_cache(maxsize=1024)
def _number(dimension: str, sizes: tuple[tuple[str, int], ...]) -> int | None:
    """The number that an expression is; None where there is none. Few come up again and again."""
    if not dimension:
        return None
    size = sympy.sympify(dimension, locals=dict(sizes))
    return int(size) if getattr(size, "is_Integer", isinstance(size, int)) else None


def _lives(graph: ir.Graph) -> Iterator[tuple[list[ir.Value], list[ir.Value]]]:
    """For each operator, the values that it makes, and those that nobody reads after it."""
    owners: dict[ir.Value, ir.Value] = {}
    last_use: dict[ir.Value, int] = {}
    nodes = list(graph)
    given = {*graph.inputs, *graph.outputs}
    for step, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                last_use[owners.get(value, value)] = step
        if (node.op_type in _ALIASES or _is_fused(node)) and node.inputs[0] is not None:
            owners[node.outputs[0]] = owners.get(node.inputs[0], node.inputs[0])
    ending: dict[int, list[ir.Value]] = {}
    for step, node in enumerate(nodes):
        born = [value for value in node.outputs if value not in owners and value not in given]
        for value in born:
            ending.setdefault(last_use.get(value, step), []).append(value)
        yield born, ending.pop(step, [])


def _is_fused(node: ir.Node) -> bool:
    """Whether ONNX Runtime reads a transposed matrix as it was: its products can."""
    readers = node.outputs[0].consumers()
    products = bool(readers) and all(reader.op_type in {"MatMul", "Gemm"} for reader in readers)
    return node.op_type == "Transpose" and products


def _bytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return 0  # a scalar's kin: what is of the batch's size has its shape from torch
    return math.ceil(math.prod(value.shape.numpy()) * value.dtype.itemsize)
