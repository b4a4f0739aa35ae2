"""Singular value decomposition: every matrix of an MLP cut to one rank."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgefuse.compression.plan import LayerPlan
from edgefuse.mlps.layout import Layout
from edgefuse.mlps.low_rank import Factors, LowRank, inseparable
from edgefuse.mlps.mlp import MLP
from edgefuse.mlps.neurons import Layer, Neurons


def svd(layer: Layer, width: int, seed: int) -> LowRank:  # noqa: ARG001 - nothing is drawn
    """Cut every matrix to the largest rank at which the MLP has no more parameters than at width k.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I, one that `misfit` has nothing against.
        seed: Not used.
    """
    neurons = layer.neurons
    return factorise(neurons, _shape(neurons, neurons.width, neurons.hidden_size).rank(width))


def misfit(mlp: MLP, width: int) -> str | None:
    """Why an MLP cannot be cut to no more parameters than at width k; None where it can."""
    reason = inseparable(mlp.layout)
    if reason is None and _shape(mlp.layout, mlp.width, mlp.hidden_size).rank(width) < 1:
        return (
            f"two factors of rank 1 have more parameters than {width} neurons, "
            "and so it wants a larger --ratio or --width"
        )
    return reason


def outcome(mlp: MLP, plan: LayerPlan) -> LayerPlan:
    """What a plan at width k comes to: all neurons stay, of matrices with fewer parameters."""
    shape = _shape(mlp.layout, mlp.width, mlp.hidden_size)
    parameters = shape.parameters(shape.rank(plan.width_after))
    own_bias = 0 if mlp.layout.bias is None else mlp.hidden_size
    return replace(
        plan, width_after=mlp.width, parameters_after=parameters + own_bias, kind="low-rank"
    )


@dataclass(frozen=True)
class _Shape:
    """What an MLP's parameters at some rank or width are counted by.

    Attributes:
        neurons: I.
        hidden_size: p.
        matrices: Two, or three with a gate.
        biases: Count of biases a neuron: one, and one of a gate's.
    """

    neurons: int
    hidden_size: int
    matrices: int
    biases: int

    def parameters(self, rank: int) -> int:
        """Rank r has r (I + p) in each matrix, and the I neurons keep their biases."""
        factors = self.matrices * rank * (self.neurons + self.hidden_size)
        return factors + self.biases * self.neurons

    def rank(self, width: int) -> int:
        """The largest rank with no more parameters than k neurons, 0 where there is none.

        k neurons have p parameters in each matrix and one in each bias.
        """
        budget = width * (self.matrices * self.hidden_size + self.biases)
        left = max(budget - self.parameters(0), 0)
        most = min(self.hidden_size, self.neurons)
        return min(left // (self.parameters(1) - self.parameters(0)), most)


def _shape(of: Neurons | Layout, neurons: int, hidden_size: int) -> _Shape:
    biases = sum(bias is not None for bias in (of.up_bias, of.gate_bias))
    return _Shape(neurons, hidden_size, 2 if of.gate is None else 3, biases)


def factorise(neurons: Neurons, rank: int) -> LowRank:
    """The nearest matrices of that rank (Eckart-Young), with √σ on both factors.

    Args:
        neurons: Neurons of an MLP, dense or gated.
        rank: r, from 1 to min(I, p); there, the MLP is the same.
    """
    assert rank >= 1
    return LowRank(
        up=_cut(neurons.up, rank),
        down=_cut(neurons.down, rank),
        up_bias=neurons.up_bias,
        gate=None if neurons.gate is None else _cut(neurons.gate, rank),
        gate_bias=neurons.gate_bias,
    )


def refactorise(low_rank: LowRank) -> LowRank:
    """Share the products out anew among factors, as `factorise` does.

    Stages change factors. How a product is shared out matters to what the factors learn.
    """
    factors = factorise(low_rank.product().neurons, low_rank.rank)
    return replace(factors, output_bias=low_rank.output_bias)


def _cut(matrix: Tensor, rank: int) -> Factors:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors((u[:, :rank] * root).contiguous(), (root[:, None] * v[:rank]).contiguous())
