"""Embeddings whose unused rows need no gradient.

The gradient of an embedding is zero in every row whose token does not occur. Where the graph
reads token ids for nothing but that embedding, the runtime may hand it a smaller table, of the
rows that its training data use, and renumber the tokens: gradients and optimizer shrink with it.
"""

import onnx_ir as ir

from edgefuse_runtime.graph.parameters import PADDING_ID, zeros_of

VOCABULARY = "vocabulary"
"""Name of the dimension that may be any."""

_SAME_IDS = {"Cast", "Expand", "Identity", "Reshape", "Unique", "Unsqueeze"}


def free_rows(graph: ir.Graph, name: str, *, padding_id: int) -> bool:
    """Let a trained embedding have any number of rows, in place, where that is the same.

    The table of zeros that its gradient is summed into becomes the input `zeros_of(name)`: bound to
    the gradient's own memory, with the rows of the batch before set back to zero, it spares
    writing and copying a whole table at every step. What token ids are compared with becomes the
    input `PADDING_ID`, for tokens may have other numbers then, the padding too.

    Args:
        graph: A training graph with `input_ids` and the embedding among its inputs.
        name: A trained parameter.
        padding_id: The one token id that the graph may compare others with.

    Returns:
        Whether it now takes any number of rows.
    """
    inputs = {value.name: value for value in graph.inputs}
    table, token_ids = inputs[name], inputs["input_ids"]
    gradient = next(value for value in graph.outputs if value.name == f"gradient.{name}")
    scatter = scatter_into_zeros(gradient)
    same_ids = _follow(token_ids)
    if scatter is None or not all(
        node.op_type == "Gather" and node.inputs[1] in same_ids for node in table.consumers()
    ):
        return False
    comparisons = []
    for ids in same_ids:
        for node, position in ids.uses():
            if node.op_type == "Equal" and _constant(node.inputs[1 - position]) == padding_id:
                comparisons.append((node, 1 - position))
            elif not (
                node.op_type in _SAME_IDS
                or node.op_type == "Shape"
                or (node.op_type == "Gather" and position == 1 and node.inputs[0] is table)
                or node is scatter
                or (node.op_type == "TopK" and not node.outputs[0].uses())
            ):
                return False
    assert table.shape is not None
    table.shape = ir.Shape([VOCABULARY, *table.shape[1:]])
    gradient.shape = table.shape.copy()
    given = ir.Value(name=zeros_of(name), type=table.type, shape=table.shape.copy())
    zeros = scatter.inputs[0]
    assert zeros is not None
    scatter.replace_input_with(0, given)
    if not zeros.uses() and (maker := zeros.producer()):  # an embedding of that shape may share it
        graph.remove(maker, safe=True)
    padding = ir.Value(name=PADDING_ID, type=token_ids.type, shape=ir.Shape([1]))
    for node, position in comparisons:
        node.replace_input_with(position, padding)
    graph.inputs.extend([given, padding])
    return True


def scatter_into_zeros(gradient: ir.Value) -> ir.Node | None:
    """The ScatterND by which `embedding_backward` lays its sums into a table of zeros, or None."""
    scatter = gradient.producer()
    if scatter is None or scatter.op_type != "ScatterND":
        return None
    zeros = scatter.inputs[0].producer() if scatter.inputs[0] else None
    return scatter if zeros is not None and zeros.op_type == "ConstantOfShape" else None


def _follow(value: ir.Value) -> list[ir.Value]:
    """A value and everything that holds the same numbers in another shape or type."""
    found = [value]
    for reached in found:
        found += [
            node.outputs[0]
            for node, position in reached.uses()
            if node.op_type in _SAME_IDS and position == 0 and node.outputs[0] not in found
        ]
    return found


def _constant(value: ir.Value | None) -> int | None:
    """The one number of a constant of token ids' type."""
    tensor = ir.convenience.get_const_tensor(value) if value else None
    if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.INT64:
        return None
    return int(tensor.numpy().item())
