"""Spell out operators that torch's reverse mode or its ONNX translation gets wrong.

Each is replaced by others of the same result, in the traced program, before it is differentiated:

    baddbmm(c, a, b, β, α)   →   β c + α (a @ b)       the joint graph expands c by symbolic sizes
    rsub(x, c)               →   −x + c                decomposed to sub(c, x), which no ATen has
    pad(x, [l, r, …], 0)     →   cat(0, x, 0)          the joint graph fixes all sizes of x
    im2col(x, [k, 1], …)     →   cat of k slices of x  the translation fixes all sizes of x
    add_(x, y), div_(x, y) … →   add(x, y), div(x, y)  the joint graph would change x in place

The last one where nobody else reads x.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def spell_out(graph_module: fx.GraphModule) -> int:
    """Replace the operators of the table above, in place.

    Args:
        graph_module: A forward pass in ATen operators.

    Returns:
        How many operators were replaced.
    """
    graph, count = graph_module.graph, 0
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        replacement = _REPLACEMENTS.get(node.target, _out_of_place)
        with graph.inserting_before(node):
            result = replacement(graph, node)
        if result is not None:
            result.meta = dict(node.meta)
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            count += 1
    graph_module.recompile()
    return count


def _out_of_place(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """What an operator that changes its first argument gives; None where that is read elsewhere."""
    changed, _, overload = str(node.target).removeprefix("aten.").partition(".")
    if not changed.endswith("_") or node.target is not _operator(changed, overload):
        return None
    twin = _operator(changed[:-1], overload)
    if twin is None or not (changed == "detach_" or _is_its_own(node.args[0], node)):
        return None
    return graph.call_function(twin, node.args, node.kwargs)


def _operator(name: str, overload: str) -> Callable[..., Any] | None:
    """ATen's of a name; None where there is none."""
    return getattr(getattr(aten, name, None), overload, None)


def _is_its_own(value: Any, reader: fx.Node) -> bool:
    """Whether nothing that is read behind a reader shares a value's memory."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    others = [user for user in value.users if user is not reader]
    if not all(user < reader and not _is_view(user) for user in others):
        return False
    return not _is_view(value) or _is_its_own(value.args[0], value)


def _is_view(node: fx.Node) -> bool:
    """Whether what an operator gives may share memory with what it takes."""
    made = node.args[0] if node.target is operator.getitem else node
    schema = getattr(made.target, "_schema", None) if isinstance(made, fx.Node) else None
    return schema is None or any(one.alias_info is not None for one in schema.returns)


def _batched_product(graph: fx.Graph, node: fx.Node) -> fx.Node:
    added, first, second = node.args[:3]
    product = graph.call_function(aten.bmm.default, (first, second))
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    if alpha != 1:
        product = graph.call_function(aten.mul.Tensor, (product, alpha))
    if beta != 1:
        added = graph.call_function(aten.mul.Tensor, (added, beta))
    return graph.call_function(aten.add.Tensor, (added, product))


def _subtraction(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    subtrahend, minuend, *alpha = node.args
    if alpha not in ([], [1]) or node.kwargs.get("alpha", 1) != 1:
        return None
    negative = graph.call_function(aten.neg.default, (subtrahend,))
    return graph.call_function(aten.add.Tensor, (negative, minuend))


def _padding(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    padded, widths = node.args[:2]
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    assert isinstance(padded, fx.Node)
    assert isinstance(widths, list)
    if mode != "constant" or value not in (None, 0, 0.0) or "val" not in padded.meta:
        return None
    if not all(isinstance(width, int) and width >= 0 for width in widths):
        return None
    rank = padded.meta["val"].ndim
    result = padded
    for place in range(len(widths) // 2):
        axis = rank - 1 - place
        before, after = widths[2 * place : 2 * place + 2]
        parts = [_zeros(graph, result, rank, axis, before), result]
        parts.append(_zeros(graph, result, rank, axis, after))
        present = [part for part in parts if part is not None]
        if len(present) > 1:
            result = graph.call_function(aten.cat.default, (present, axis))
    return result


def _windows(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """(B, C, T, 1) → (B, C·k, T'), where the window moves by single tokens."""
    arguments: list[Any] = [*node.args]
    source, (kernel, width), dilation, (pad, side), stride = arguments
    if [width, side, *dilation, *stride] != [1, 0, 1, 1, 1, 1] or "val" not in source.meta:
        return None
    channels = source.meta["val"].shape[1]
    zeros = _zeros(graph, source, 4, 2, pad)
    padded = source
    if zeros is not None:
        padded = graph.call_function(aten.cat.default, ([zeros, source, zeros], 2))
    length = graph.call_function(aten.sym_size.int, (padded, 2))
    count = graph.call_function(operator.sub, (length, kernel - 1))
    slices = []
    for place in range(kernel):
        end = graph.call_function(operator.add, (count, place))
        slices.append(graph.call_function(aten.slice.Tensor, (padded, 2, place, end)))
    together = graph.call_function(aten.cat.default, (slices, 3))
    by_place = graph.call_function(aten.permute.default, (together, [0, 1, 3, 2]))
    rows = graph.call_function(aten.sym_size.int, (source, 0))
    return graph.call_function(aten.reshape.default, (by_place, [rows, channels * kernel, count]))


def _zeros(graph: fx.Graph, like: fx.Node, rank: int, axis: int, count: int) -> fx.Node | None:
    """Zeros of a tensor's sizes but along one axis; None for none."""
    if not count:
        return None
    sizes = [
        count if other == axis else graph.call_function(aten.sym_size.int, (like, other))
        for other in range(rank)
    ]
    return graph.call_function(aten.new_zeros.default, (like, sizes))


_REPLACEMENTS: Mapping[object, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    aten.baddbmm.default: _batched_product,
    aten.rsub.Scalar: _subtraction,
    aten.pad.default: _padding,
    aten.im2col.default: _windows,
}
