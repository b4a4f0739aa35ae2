"""Fold what is constant, join what follows itself, drop what nobody reads."""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from edgefuse_export.silence import silence


def simplify(model: ir.Model) -> None:
    """Simplify a graph by onnxscript's optimizer, in place.

    For each node it looks at all nodes, of which half are constants and many say the same as
    another: without them first, it takes a fifth of the time and ends with the same graph.
    """
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    with silence("onnxscript"):  # it says which constants it cannot compute; none of them matter
        optimizer.optimize(model)
    _read_twice_transposed_as_it_was(model)


def _read_twice_transposed_as_it_was(model: ir.Model) -> None:
    """Let readers of (Xᵀ)ᵀ read X: torch transposes a linear layer's weight for each product."""
    for node in model.graph:
        first = (
            node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] else None
        )
        if first is None or first.op_type != "Transpose":
            continue
        inner, outer = (list(one.attributes.get_ints("perm", [])) for one in (first, node))
        if inner and outer and [inner[axis] for axis in outer] == [*range(len(inner))]:
            assert first.inputs[0] is not None
            if not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(first.inputs[0])
    common.RemoveUnusedNodesPass()(model)
