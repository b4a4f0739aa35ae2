"""Scatter into what is summed, instead of into zeros beside it.

The gradient of `gather`, which picks one logit a token, is a table of zeros with one number in each
row; the softmax is added to it. Before → after:

    Add(x, ScatterElements(zeros, indices, updates, reduction="add"))
    ScatterElements(x, indices, updates, reduction="add")

So one tensor of the logits' size less is written, read and held.
"""

import onnx_ir as ir


def scatter_into_sums(graph: ir.Graph) -> int:
    """Rewrite every such sum whose zeros nobody else reads, in place.

    Args:
        graph: A training graph.

    Returns:
        How many were rewritten.
    """
    rewritten = 0
    for node in list(graph):
        if node.op_type != "Add":
            continue
        for place, value in enumerate(node.inputs):
            scatter, other = value and value.producer(), node.inputs[1 - place]
            if scatter and other and _adds_to_zeros(scatter, other):
                _rewrite(graph, node, scatter, other)
                rewritten += 1
                break
    return rewritten


def _adds_to_zeros(scatter: ir.Node, other: ir.Value) -> bool:
    """Whether a node scatters into zeros of another value's shape, for one reader alone."""
    if scatter.op_type != "ScatterElements" or len(scatter.outputs[0].uses()) != 1:
        return False
    zeros = scatter.inputs[0].producer() if scatter.inputs[0] else None
    shape = scatter.outputs[0].shape
    return (
        zeros is not None
        and zeros.op_type == "ConstantOfShape"
        and scatter.attributes.get_string("reduction", "none") == "add"
        and _is_zero(zeros)
        and shape is not None
        and shape == other.shape
    )


def _is_zero(node: ir.Node) -> bool:
    """Whether a ConstantOfShape makes zeros, as it does unless it says otherwise."""
    value = node.attributes.get("value")
    return value is None or not value.as_tensor().numpy().any()


def _rewrite(graph: ir.Graph, add: ir.Node, scatter: ir.Node, other: ir.Value) -> None:
    zeros = scatter.inputs[0]
    into = ir.Node(
        "",
        "ScatterElements",
        [other, *scatter.inputs[1:]],
        [
            ir.AttrInt64("axis", scatter.attributes.get_int("axis", 0)),
            ir.AttrString("reduction", "add"),
        ],
    )
    old, new = add.outputs[0], into.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(add, into)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([add, scatter], safe=True)
    if zeros is not None and not zeros.uses() and (maker := zeros.producer()):
        graph.remove(maker, safe=True)
