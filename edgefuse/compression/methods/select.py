"""The neurons worth keeping: those without which the MLP's output cannot be rebuilt from the rest.

Averages of neurons that are not near one another lose more than a choice of real ones, when a
least-squares fit (`edgefuse.compression.refit`) lets the others flow into them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from edgefuse.mlps.neurons import FusedNeurons, Layer, in_parts

_AT_ONCE = 0.05  # of the neurons left: 28 inversions from I to I/4, not one a neuron
_RIDGE = 1e-4  # of the mean variance


def select(layer: Layer, width: int) -> FusedNeurons:
    """Keep the k neurons that leave the smallest residual of the output, P = 1.

    Backward elimination: neurons go, a few at a time, that cost least when all others are refitted
    (optimal brain surgeon, Hassibi & Stork, NIPS 1992, for whole neurons): neuron i costs
    ‖w_i‖² / (G⁻¹)_ii, G being the hidden values' Gram matrix and w_i its refitted column of `down`.

    Args:
        layer: An MLP with calibration inputs.
        width: k, from 1 to I.
    """
    neurons = layer.neurons
    *_, (kept, _) = _eliminate(_gram(layer), neurons.down, width)
    return FusedNeurons(neurons.select(kept), torch.ones_like(neurons.up[kept, 0]))


def residual_curve(layer: Layer, least: int) -> tuple[list[int], list[float]]:
    """What the neurons chosen leave of the output when they are refitted, at every width.

    Args:
        layer: An MLP with calibration inputs.
        least: The smallest width, from 1.

    Returns:
        Widths, ascending, from `least` to I; and the squared error of the output at each, summed
        over tokens. Of widths between, think a straight line.
    """
    down = layer.neurons.down
    steps = [(len(kept), rest) for kept, rest in _eliminate(_gram(layer), down, least)]
    widths, residuals = zip(*reversed(steps), strict=True)
    return list(widths), list(residuals)


def _gram(layer: Layer) -> Tensor:
    """HᵀH (I, I), of centred hidden values where b2 can carry their mean."""
    assert layer.inputs is not None
    width = layer.neurons.width
    gram = layer.inputs.new_zeros(width, width, dtype=torch.float64)
    total = gram.new_zeros(width)
    for inputs in in_parts(layer.inputs):
        hidden = layer.neurons.hidden(inputs, layer.activation)
        gram += hidden.T @ hidden
        total += hidden.sum(dim=0, dtype=torch.float64)
    if layer.bias is not None:
        gram -= torch.outer(total, total) / len(layer.inputs)
    return gram


def _eliminate(gram: Tensor, down: Tensor, width: int) -> Iterator[tuple[Tensor, float]]:
    """The neurons kept, and the residual tr(down G downᵀ) that they leave, all first.

    When neurons R go, the refit W of the others and the inverse A = G⁻¹ follow without another
    inversion: W ← W − A_·R (A_RR)⁻¹ W_R, A ← A − A_·R (A_RR)⁻¹ A_R·.
    """
    gram = gram + _RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    target = gram @ down.T.double()
    total = (down.T * target).sum()
    kept = torch.arange(len(gram), device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    solved = down.T.double()
    while True:
        yield kept, float((total - (target[kept] * solved).sum()).clamp(min=0))
        if len(kept) == width:
            return
        cost = solved.square().sum(dim=1) / inverse.diagonal()
        fewer = max(width, len(kept) - max(1, int(_AT_ONCE * len(kept))))
        order = cost.argsort(descending=True, stable=True)
        stay, go = order[:fewer].sort().values, order[fewer:]
        share = torch.linalg.solve(inverse[go][:, go], inverse[go][:, stay]).T
        solved = solved[stay] - share @ solved[go]
        inverse = inverse[stay][:, stay] - share @ inverse[go][:, stay]
        kept = kept[stay]
