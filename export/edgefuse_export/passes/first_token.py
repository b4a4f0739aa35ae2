"""Leave out the tokens that nobody reads.

A classifier reads its first token only. Above the last attention, every operator works token by
token, so the rest of the row is work for nothing, forward and backward. Before → after:

    h (B,S,H) → Q → attention → linear → MLP → norm → select(token 0)
    h (B,S,H) → slice(token 0) → Q → attention → linear → MLP → norm → select(token 0)

where attention still sees the keys and values of all tokens. In a model of six layers this is
about a seventh of a training step.
"""

from dataclasses import dataclass

import torch
from torch import fx

aten = torch.ops.aten

_POINTWISE = {
    aten.add.Tensor,
    aten.clone.default,
    aten.contiguous.default,
    aten.div.Tensor,
    aten.dropout.default,
    aten.gelu.default,
    aten.mul.Tensor,
    aten.relu.default,
    aten.silu.default,
    aten.sub.Tensor,
    aten.tanh.default,
}
_ALONG_ONE_AXIS = {aten.slice.Tensor, aten.softmax.int}
_RESHAPES = {aten.reshape.default, aten.view.default}


@dataclass(frozen=True)
class _Slice:
    """One index of one axis: all that is read of a tensor."""

    axis: int
    index: int


def compute_only_read_tokens(graph_module: fx.GraphModule) -> int:
    """Move every `select` of one token up to where the tokens mix, in place.

    Args:
        graph_module: A forward pass in ATen operators, `meta["val"]` in place.

    Returns:
        How many operators now work on one token.
    """
    graph = graph_module.graph
    read = _what_is_read(graph)
    sliced: dict[tuple[fx.Node, _Slice], fx.Node] = {}

    def one_token(node: fx.Node, wanted: _Slice) -> fx.Node:
        if node in read or (node, wanted) in sliced:
            return sliced.get((node, wanted), node)
        with graph.inserting_after(node):
            bounds = (wanted.axis, wanted.index, wanted.index + 1)
            sliced[node, wanted] = graph.call_function(aten.slice.Tensor, (node, *bounds))
        return sliced[node, wanted]

    for node, wanted in reversed(read.items()):
        for position, source in (_sources(node, wanted) or {}).items():
            node.update_arg(position, one_token(_node(node.args[position]), source))
        if node.target in _RESHAPES:
            sizes = [*_list(node.args[1])]
            sizes[wanted.axis] = 1
            node.update_arg(1, sizes)
    for node in graph.find_nodes(op="call_function", target=aten.select.int):
        if node.args[0] in read:
            node.update_arg(2, 0)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return len(read)


def _what_is_read(graph: fx.Graph) -> dict[fx.Node, _Slice]:
    """Operators of which one slice is read by everybody, top of the model first."""
    demands: dict[fx.Node, set[_Slice | None]] = {}
    read: dict[fx.Node, _Slice] = {}
    for node in reversed(graph.nodes):
        wanted = demands.get(node, {None})
        sources: dict[int, _Slice] | None = None
        if node.target is aten.select.int and wanted == {None}:
            index = node.args[2]
            if isinstance(index, int) and index >= 0:
                sources = {0: _Slice(_axis(node.args[1], _rank(_node(node.args[0]))), index)}
        elif len(wanted) == 1 and (only := next(iter(wanted))) is not None:
            sources = _sources(node, only)
            if sources is not None:
                read[node] = only
        positions = {id(node.args[p]): s for p, s in (sources or {}).items()}
        for source in node.all_input_nodes:
            demands.setdefault(source, set()).add(positions.get(id(source)))
    return read


def _sources(node: fx.Node, wanted: _Slice) -> dict[int, _Slice] | None:
    """Which slice of which argument gives `wanted`; None where the operator mixes the axis."""
    axis, index = wanted.axis, wanted.index
    rank = _rank(node)
    if node.target in _POINTWISE:
        aligned = {
            position: _Slice(axis - rank + _rank(argument), index)
            for position, argument in enumerate(node.args)
            if isinstance(argument, fx.Node) and _rank(argument) >= rank - axis
        }
        return {p: s for p, s in aligned.items() if _shape(_node(node.args[p]))[s.axis] != 1}
    if node.target is aten.transpose.int:
        first, second = (_axis(argument, rank) for argument in node.args[1:3])
        return {0: _Slice({first: second, second: first}.get(axis, axis), index)}
    return {0: wanted} if _keeps_axis(node, axis) else None


def _keeps_axis(node: fx.Node, axis: int) -> bool:
    """Whether an operator works index by index along an axis of its first argument."""
    rank, target, arguments = _rank(node), node.target, node.args
    if target is aten.linear.default:
        return axis < rank - 1
    if target is aten.layer_norm.default:
        return axis < rank - len(_list(arguments[1]))
    if target in _ALONG_ONE_AXIS:
        return axis != _axis(arguments[1], rank)
    if target is aten.matmul.default:
        return axis == rank - 2 and _rank(_node(arguments[0])) == rank
    if target in _RESHAPES:
        shapes = (_shape(node), _shape(_node(arguments[0])))
        before, after = ([str(size) for size in shape[: axis + 1]] for shape in shapes)
        return before == after
    return False


def _shape(node: fx.Node) -> tuple[int | torch.SymInt, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _rank(node: fx.Node) -> int:
    return len(_shape(node))


def _node(argument: object) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _list(argument: object) -> list[fx.Node | int]:
    assert isinstance(argument, list)
    return argument


def _axis(argument: object, rank: int) -> int:
    assert isinstance(argument, int)
    return argument % rank
