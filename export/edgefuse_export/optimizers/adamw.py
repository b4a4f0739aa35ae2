"""AdamW over blocks of elements, as ordinary ONNX operators."""

import onnx_ir as ir

from edgefuse_export.optimizers.elementwise import Recorder, Values, elementwise_graph
from edgefuse_runtime.optimizers.adamw import AdamW

SCALARS = ("gradient_scale", "step_size", "eps", "shrinkage")


def adamw_graph(settings: AdamW) -> ir.Model:
    """One step of AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2).

    The moments are kept without their factors, M = m / (1 − β1) and V = v / (1 − β2), which spares
    two passes over the elements. With g' = gradient_scale · gradient:

        M ← β1 M + g'
        V ← β2 V + g'²
        parameter ← shrinkage · parameter − step_size · M / (√V + eps)

    Clipping, bias correction and schedule are in the scalars, which the runtime computes at every
    step t from the learning rate η, with c = √((1 − β2) / (1 − β2ᵗ)):

        gradient_scale = min(1, max_norm / (norm + 1e-6))
        step_size = η / c · (1 − β1) / (1 − β1ᵗ)
        eps = ε / c
        shrinkage = 1 − η · weight_decay, or 1

    Returns:
        A model as `elementwise_graph` makes it, with the states `first_moment` and
        `second_moment`.
    """

    def rule(graph: Recorder, of: Values) -> Values:
        op = graph.op
        scaled = op("Mul", of["gradient"], of["gradient_scale"])
        kept = op("Mul", of["first_moment"], graph.constant("beta1", settings.beta1))
        first = op("Add", kept, scaled)
        kept = op("Mul", of["second_moment"], graph.constant("beta2", settings.beta2))
        second = op("Add", kept, op("Mul", scaled, scaled))
        direction = op("Div", first, op("Add", op("Sqrt", second), of["eps"]))
        shrunk = op("Mul", of["parameter"], of["shrinkage"])
        parameter = op("Sub", shrunk, op("Mul", direction, of["step_size"]))
        return {"parameter": parameter, "first_moment": first, "second_moment": second}

    states = ("first_moment", "second_moment")
    return elementwise_graph("adamw", rule, states=states, scalars=SCALARS)
