"""Singular value decomposition: every matrix of an MLP cut to one rank."""

import torch
from torch import Tensor

from edgefuse.compression.methods.low_rank import Factors, LowRank, inseparable
from edgefuse.compression.mlp import MLP
from edgefuse.compression.neurons import Layer, Neurons


def svd(layer: Layer, width: int, seed: int) -> LowRank:  # noqa: ARG001 - nothing is drawn
    """Cut every matrix to the largest rank at which the MLP has no more parameters than at width k.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I, one that `misfit` has nothing against.
        seed: Not used.
    """
    neurons = layer.neurons
    return factorise(
        neurons,
        _rank_at_width(
            width,
            neurons=neurons.width,
            hidden_size=neurons.hidden_size,
            matrices=2 if neurons.gate is None else 3,
            biases=sum(bias is not None for bias in (neurons.up_bias, neurons.gate_bias)),
        ),
    )


def misfit(mlp: MLP, width: int) -> str | None:
    """Why an MLP cannot be cut to no more parameters than at width k; None where it can."""
    layout = mlp.layout
    reason = inseparable(layout)
    rank = _rank_at_width(
        width,
        neurons=mlp.width,
        hidden_size=mlp.hidden_size,
        matrices=3 if mlp.gated else 2,
        biases=sum(bias is not None for bias in (layout.up_bias, layout.gate_bias)),
    )
    if reason is None and rank < 1:
        return (
            f"two factors of rank 1 have more parameters than {width} neurons, "
            "and so it wants a larger --ratio or --width"
        )
    return reason


def _rank_at_width(
    width: int, *, neurons: int, hidden_size: int, matrices: int, biases: int
) -> int:
    """The largest rank r with no more parameters than k neurons, 0 where there is none.

    k neurons have p parameters in each matrix and one in each bias; rank r has r (I + p) in each
    matrix, and the I neurons keep their biases.
    """
    p, i = hidden_size, neurons
    budget = width * (matrices * p + biases) - i * biases
    return min(max(budget, 0) // (matrices * (i + p)), p, i)


def factorise(neurons: Neurons, rank: int) -> LowRank:
    """The nearest matrices of that rank (Eckart-Young), with √σ on both factors.

    Args:
        neurons: Of an MLP, dense or gated.
        rank: r, from 1 to min(I, p); there, the MLP is the same.
    """
    return LowRank(
        up=_cut(neurons.up, rank),
        down=_cut(neurons.down, rank),
        up_bias=neurons.up_bias,
        gate=None if neurons.gate is None else _cut(neurons.gate, rank),
        gate_bias=neurons.gate_bias,
    )


def _cut(matrix: Tensor, rank: int) -> Factors:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors((u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous())
