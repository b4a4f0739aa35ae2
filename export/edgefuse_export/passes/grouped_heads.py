"""Grouped heads read the keys and values that they share, in the place of copies of them.

With H heads of queries and K of keys, models repeat what is kept H / K times (Ainslie et al.,
"GQA", arXiv 2305.13245). Before → after, for T new tokens behind S:

    MatMul(q, Transpose(repeat(keys)))  (B,H,T,D)·(B,H,D,S)   →   (B,K,H/K·T,D)·(B,K,D,S)
    MatMul(p, repeat(values))           (B,H,T,S)·(B,H,S,D)   →   (B,K,H/K·T,S)·(B,K,S,D)

where repeat is Reshape(Expand(Unsqueeze(x, 2))), and only shapes change around the products.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_HEADS, _REPEATED_AXIS = 1, 2
_SWAPPED = (0, 1, 3, 2)


def share_heads(model: ir.Model) -> int:
    """Read shared keys and values where they are, in place.

    Args:
        model: A graph in which products of heads have four axes.

    Returns:
        How many products were changed.
    """
    graph, count = model.graph, 0
    for product in [node for node in graph if node.op_type == "MatMul"]:
        heads, repeated = product.inputs
        assert heads is not None
        turned = _made_by(repeated, "Transpose")
        if turned is not None and tuple(turned.attributes.get_ints("perm")) != _SWAPPED:
            continue
        shared = _what_is_repeated(turned.inputs[0] if turned else repeated)
        whole = product.outputs[0].shape
        if shared is None or shared.shape is None or whole is None or len(whole) != len(_SWAPPED):
            continue
        groups, count_of_heads = shared.shape[_HEADS], whole[_HEADS]
        if not (isinstance(groups, int) and isinstance(count_of_heads, int)):
            continue
        if turned is not None:
            shared = _turned(graph, product, shared)
        _group(graph, product, heads, shared, (groups, count_of_heads))
        count += 1
    RemoveUnusedNodesPass()(model)
    return count


def _what_is_repeated(value: ir.Value | None) -> ir.Value | None:
    """Keys or values that a value repeats; None for others."""
    reshape = _made_by(value, "Reshape")
    expand = _made_by(reshape.inputs[0], "Expand") if reshape else None
    unsqueeze = _made_by(expand.inputs[0], "Unsqueeze") if expand else None
    if unsqueeze is None or unsqueeze.inputs[1] is None:
        return None
    axes = ir.convenience.get_const_tensor(unsqueeze.inputs[1])
    is_after_heads = axes is not None and axes.numpy().tolist() == [_REPEATED_AXIS]
    return unsqueeze.inputs[0] if is_after_heads else None


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _turned(graph: ir.Graph, product: ir.Node, keys: ir.Value) -> ir.Value:
    value = ir.Value(name=f"{product.outputs[0].name}.shared", type=keys.type)
    node = ir.node("Transpose", [keys], attributes={"perm": _SWAPPED}, outputs=[value])
    graph.insert_before(product, node)
    return value


def _group(
    graph: ir.Graph,
    product: ir.Node,
    heads: ir.Value,
    shared: ir.Value,
    counts: tuple[int, int],
) -> None:
    """Let a product take heads of a group as rows of one matrix.

    Args:
        graph: The graph.
        product: The product.
        heads: The first factor of the product.
        shared: What is read in the place of the second one.
        counts: Count of heads that are shared, and of all.
    """
    found = product.outputs[0]
    name = str(found.name)

    def add(operator: str, inputs: list[ir.Value], end: str) -> ir.Value:
        value = ir.Value(name=f"{name}.{end}", type=found.type)
        graph.insert_before(product, ir.node(operator, inputs, outputs=[value]))
        return value

    def sizes(rows: int, end: str) -> ir.Value:
        """Batch and last axis as they are, so many of the second, and the rest in the third."""
        value = ir.Value(name=f"{name}.{end}", const_value=ir.tensor([0, rows, -1, 0]))
        graph.register_initializer(value)
        return value

    grouped = add("Reshape", [heads, sizes(counts[0], "groups")], "grouped")
    together = add("MatMul", [grouped, shared], "together")
    apart = add("Reshape", [together, sizes(counts[1], "heads")], "apart")
    apart.shape = found.shape
    found.replace_all_uses_with(apart, replace_graph_outputs=True)
    graph.remove(product, safe=True)
