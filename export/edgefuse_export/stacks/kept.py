"""A layer's forward pass that gives out what its backward pass needs, and that backward pass."""

from collections.abc import Callable, Collection

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgefuse_export.passes.inference import read_sizes_elsewhere
from edgefuse_runtime.graph.stack import OUTPUT, kept_name

_ARRANGING = {
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that only arrange numbers: done again, they cost less than their results take."""


_MADE = "made."
"""What stands before the names of forward values, until those that are kept are known."""


def only(model: ir.Model, wanted: Callable[[str], bool], *, keep: Collection[str] = ()) -> ir.Model:
    """The part of a graph that makes some of its outputs; inputs that nobody reads go.

    Args:
        model: A graph; it is not changed.
        wanted: Whether to keep an output of a name.
        keep: Names of inputs that stay, whether anybody reads them or not.
    """
    part = model.clone()
    for value in [value for value in part.graph.outputs if not wanted(str(value.name))]:
        part.graph.outputs.remove(value)
    _tidy(part, keep)
    return part


def split(joint: ir.Model) -> tuple[ir.Model, ir.Model]:
    """Cut a layer's graph of forward and backward pass between the two.

    What the backward pass reads of the forward pass is kept, but for what is only arranged anew.

    Args:
        joint: Input, contexts, gradient of the output → output and gradients. Not changed.

    Returns:
        Input and contexts → output and what is kept; and input, contexts, what is kept and gradient
        of the output → gradients.
    """
    forward = only(joint, OUTPUT.__eq__)
    backward = only(joint, lambda name: name.startswith("gradient."))
    made = {str(value.name): value for node in forward.graph for value in node.outputs}
    crossing = [
        value
        for node in backward.graph
        for value in node.outputs
        if str(value.name) in made and node.op_type not in _ARRANGING
    ]
    for value in crossing:
        given = ir.Value(name=f"{_MADE}{value.name}", type=value.type, shape=value.shape)
        value.replace_all_uses_with(given)
        backward.graph.inputs.append(given)
    _tidy(backward)  # of what only other kept values are made of, none is read any more
    kept = [value for value in backward.graph.inputs if str(value.name).startswith(_MADE)]
    for index, value in enumerate(kept):
        made_there = made[str(value.name).removeprefix(_MADE)]
        forward.graph.outputs.append(_given_out(forward.graph, made_there, kept_name(index)))
        value.name = kept_name(index)
    return forward, backward


def _given_out(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """A value of a graph under the name of a further output."""
    if value.is_graph_output():
        copy = ir.node("Identity", [value])
        graph.append(copy)
        copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
        (value,) = copy.outputs
    value.name = name
    return value


def _tidy(model: ir.Model, keep: Collection[str] = ()) -> None:
    """Remove nodes that nobody reads, and inputs of which only sizes are read, or nothing."""
    RemoveUnusedNodesPass()(model)
    inputs = model.graph.inputs
    for value in [value for value in inputs if value.name not in keep]:
        if all(node.op_type == "Shape" for node in value.consumers()):
            read_sizes_elsewhere(value, [other for other in inputs if other is not value])
        if not value.uses() and value not in model.graph.outputs:
            inputs.remove(value)
