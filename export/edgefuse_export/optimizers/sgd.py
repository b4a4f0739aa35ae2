"""Stochastic gradient descent over blocks of elements, as ordinary ONNX operators."""

import onnx_ir as ir

from edgefuse_export.optimizers.elementwise import Recorder, Values, elementwise_graph
from edgefuse_runtime.optimizers.sgd import Sgd

SCALARS = ("gradient_scale", "step_size", "weight_decay")


def sgd_graph(settings: Sgd) -> ir.Model:
    """One step of torch.optim.SGD with μ, the momentum, and no dampening.

        g ← gradient_scale · gradient + weight_decay · parameter
        m ← μ m + g
        parameter ← parameter − step_size · (m, or g + μ m by Nesterov, or g without momentum)

    Returns:
        A model as `elementwise_graph` makes it, with the state `momentum` if there is any.
    """

    def rule(graph: Recorder, of: Values) -> Values:
        op = graph.op
        gradient = op("Mul", of["gradient"], of["gradient_scale"])
        gradient = op("Add", gradient, op("Mul", of["parameter"], of["weight_decay"]))
        new, direction = {}, gradient
        if settings.momentum:
            decay = graph.constant("momentum_decay", settings.momentum)
            momentum = op("Add", op("Mul", of["momentum"], decay), gradient)
            ahead = op("Add", gradient, op("Mul", momentum, decay)) if settings.nesterov else None
            new, direction = {"momentum": momentum}, ahead or momentum
        return {
            "parameter": op("Sub", of["parameter"], op("Mul", direction, of["step_size"])),
            **new,
        }

    states = ("momentum",) if settings.momentum else ()
    return elementwise_graph("sgd", rule, states=states, scalars=SCALARS)
