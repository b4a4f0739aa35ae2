"""Structured pruning: whole neurons are kept as they are, or go."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgefuse.mlps.neurons import FusedNeurons, Layer, Neurons, in_parts


def prune(layer: Layer, width: int, seed: int) -> FusedNeurons:  # noqa: ARG001 - nothing is drawn
    """Keep the k neurons of the largest ‖up‖ ‖down‖, in their order, P = 1.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I; with I the MLP is the same.
        seed: Not used.
    """
    return _keep(layer.neurons, by_weight_norms(layer.neurons), width)


def prune_activation(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Keep the k neurons of the largest outputs: the root mean square of h_i × ‖down_i‖, P = 1.

    Wanda's score (Sun et al., ICLR 2024, arXiv 2306.11695) for whole columns of `down`.

    Args:
        layer: An MLP, dense or gated, with calibration inputs. Without any (an expert that few
            tokens reach) its weights alone decide, as in `prune`.
        width: k, from 1 to I.
        seed: Not used.
    """
    norm = layer.neurons.down.norm(dim=0)
    return _keep_by_text(layer, width, seed, lambda _, square: square.sqrt() * norm)


def flap(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Keep the k neurons whose outputs vary most: the variance of h_i × ‖down_i‖², P = 1.

    The fluctuation of An et al., Fluctuation-based Adaptive Structured Pruning for Large Language
    Models, AAAI 2024, arXiv 2312.11983. What it gives to a bias, the mean of those that go, is for
    the refit: few language models have that bias, and it can be none without.

    Args:
        layer: An MLP, dense or gated, with calibration inputs. Without any its weights alone
            decide, as in `prune`.
        width: k, from 1 to I.
        seed: Not used.
    """
    power = layer.neurons.down.square().sum(dim=0)
    return _keep_by_text(
        layer, width, seed, lambda mean, square: (square - mean.square()).clamp(min=0) * power
    )


def by_weight_norms(neurons: Neurons) -> Tensor:
    """‖up_i‖ ‖down_i‖, times ‖gate_i‖ where there is one, (I,): the same however α is shared out.

    (α up, down / α) is the same neuron, and so it has the same score.
    """
    score: Tensor = neurons.up.norm(dim=1) * neurons.down.norm(dim=0)
    return score if neurons.gate is None else score * neurons.gate.norm(dim=1)


def _keep_by_text(
    layer: Layer, width: int, seed: int, score: Callable[[Tensor, Tensor], Tensor]
) -> FusedNeurons:
    """Keep neurons by a score of the means of h and of h², (I,) each, in float64."""
    assert layer.inputs is not None
    if len(layer.inputs) == 0:
        return prune(layer, width, seed)
    total = layer.neurons.up.new_zeros(layer.neurons.width, dtype=torch.float64)
    squares = total.clone()
    for inputs in in_parts(layer.inputs):
        hidden = layer.neurons.hidden(inputs, layer.activation).double()
        total += hidden.sum(dim=0)
        squares += hidden.square().sum(dim=0)
    moments = total / len(layer.inputs), squares / len(layer.inputs)
    return _keep(layer.neurons, score(*moments), width)


def _keep(neurons: Neurons, score: Tensor, width: int) -> FusedNeurons:
    index = score.argsort(descending=True, stable=True)[:width].sort().values
    return FusedNeurons(neurons.select(index), neurons.up.new_ones(width))
