"""Fold what is constant, join what follows itself, drop what nobody reads."""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import rewriter
from onnxscript.optimizer import fold_constants

from edgefuse_export.silence import silence

_ROUNDS = 2
_QUADRATIC = "SlicesSplit"
"""For each node it looks at all, and joins slices without steps, which torch's never are."""

_RULES = tuple(rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule.name != _QUADRATIC)  # noqa: SLF001

_FIRST = ir.passes.Sequential(
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.DeduplicateInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.InlinePass(),
)
_LAST = ir.passes.Sequential(
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.LiftSubgraphInitializersToMainGraphPass(),
    common.DeduplicateInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.OutputFixPass(),
    common.NameFixPass(),
)


def simplify(model: ir.Model) -> None:
    """Simplify a graph, in place.

    As onnxscript's optimizer does, but for one rule that takes longer than all others together.
    Constants and duplicates go first: they are half of all nodes, and rules look at every one.
    """
    # They say which constants they cannot compute, and which they leave; none of them matter.
    with silence("onnxscript", "onnx_ir"):
        _FIRST(model)
        for _ in range(_ROUNDS):
            fold_constants(model, onnx_shape_inference=True)
            rewriter.rewrite(model, _RULES)  # and drops what nobody reads then
        _LAST(model)
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
