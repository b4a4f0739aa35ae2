"""Singular value decomposition: every matrix of an MLP cut to one rank."""

import torch
from torch import Tensor

from edgefuse.compression.methods.low_rank import Factors, LowRank
from edgefuse.compression.neurons import Layer, Neurons
from edgefuse_devices.errors import InputError


def svd(layer: Layer, width: int, seed: int) -> LowRank:  # noqa: ARG001 - nothing is drawn
    """Cut every matrix to the largest rank at which the MLP has no more parameters than at width k.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I.
        seed: Not used.

    Raises:
        InputError: k is so small that the biases alone, of which I stay, take all parameters.
    """
    rank = rank_at_width(layer.neurons, width)
    if rank < 1:
        raise InputError(
            f"svd leaves no rank at a width of {width}: its {layer.neurons.width} neurons stay, "
            "and two factors of rank 1 would have more parameters",
            "Choose a larger --ratio or --width, or another --method",
        )
    return factorise(layer.neurons, rank)


def rank_at_width(neurons: Neurons, width: int) -> int:
    """The largest rank r with no more parameters than k neurons, 0 where there is none.

    k neurons have p parameters in each matrix and one in each bias; rank r has r (I + p) in each
    matrix, and the I neurons keep their biases.
    """
    matrices = 2 if neurons.gate is None else 3
    biases = sum(bias is not None for bias in (neurons.up_bias, neurons.gate_bias))
    p, i = neurons.hidden_size, neurons.width
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
