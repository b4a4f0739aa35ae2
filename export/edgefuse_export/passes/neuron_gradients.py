"""Gradients of fused rows, as one of their neurons has them."""

from collections.abc import Mapping

import onnx_ir as ir

from edgefuse_export.passes.norm_weights import NormWeight


def divide_by_neurons(graph: ir.Graph, weights: Mapping[str, NormWeight]) -> None:
    """Divide the gradient of each fused row by the count n of its neurons, in place.

    The row stands for n neurons that are alike, and its gradient is the sum of theirs: a step that
    grows with the gradient would be n times too far (Wei et al., "NTK-approximating MLP Fusion",
    arXiv 2307.08941, on gradient descent with P standalone). Weight decay is not divided.

    Before → after:

        … → gradient.NAME    →    … → Mul(·, 1/n) → gradient.NAME

    Args:
        graph: A graph with gradients among its outputs.
        weights: 1/√n by parameter.
    """
    for index, gradient in enumerate(graph.outputs):
        weight = weights.get(str(gradient.name).removeprefix("gradient."))
        if weight is None:
            continue
        producer = gradient.producer()
        assert producer is not None
        assert gradient.shape is not None
        name = str(gradient.name)
        factor = weight.neurons(len(gradient.shape))
        constant = ir.Value(name=f"{name}.share", const_value=ir.tensor(factor))
        constant.type, constant.shape = gradient.type, ir.Shape(factor.shape)
        graph.register_initializer(constant)
        gradient.name = f"{name}.sum"
        divide = ir.node("Mul", [gradient, constant])
        (divided,) = divide.outputs
        divided.name, divided.type, divided.shape = name, gradient.type, gradient.shape
        graph.insert_after(producer, divide)  # and not at the end, where all sums would be held
        graph.outputs[index] = divided
