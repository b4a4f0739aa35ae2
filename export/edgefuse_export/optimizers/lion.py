"""Lion over blocks of elements, as ordinary ONNX operators."""

import onnx_ir as ir

from edgefuse_export.optimizers.elementwise import Recorder, Values, elementwise_graph
from edgefuse_runtime.optimizers.lion import Lion

SCALARS = ("gradient_scale", "step_size", "shrinkage")


def lion_graph(settings: Lion) -> ir.Model:
    """One step of Lion (Chen et al., arXiv 2302.06675, algorithm 2).

    With g = gradient_scale · gradient, and d = m − g, by which m is read once:

        parameter ← shrinkage · parameter − step_size · sign(g + β1 d)
        m ← g + β2 d

    Returns:
        A model as `elementwise_graph` makes it, with the state `momentum`.
    """

    def rule(graph: Recorder, of: Values) -> Values:
        op = graph.op
        gradient = op("Mul", of["gradient"], of["gradient_scale"])
        difference = op("Sub", of["momentum"], gradient)

        def between(name: str, weight: float) -> ir.Value:
            return op("Add", gradient, op("Mul", difference, graph.constant(name, weight)))

        direction = op("Sign", between("beta1", settings.beta1))
        shrunk = op("Mul", of["parameter"], of["shrinkage"])
        parameter = op("Sub", shrunk, op("Mul", direction, of["step_size"]))
        return {"parameter": parameter, "momentum": between("beta2", settings.beta2)}

    return elementwise_graph("lion", rule, states=("momentum",), scalars=SCALARS)
