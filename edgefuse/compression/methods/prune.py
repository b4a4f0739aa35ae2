"""Structured pruning: whole neurons are kept as they are, or go."""

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
    assert layer.inputs is not None
    if len(layer.inputs) == 0:
        return prune(layer, width, seed)
    neurons = layer.neurons
    squares = neurons.up.new_zeros(neurons.width, dtype=torch.float64)
    for inputs in in_parts(layer.inputs):
        squares += neurons.hidden(inputs, layer.activation).double().square().sum(dim=0)
    activity = (squares / len(layer.inputs)).sqrt()
    return _keep(neurons, activity * neurons.down.norm(dim=0), width)


def by_weight_norms(neurons: Neurons) -> Tensor:
    """‖up_i‖ ‖down_i‖, times ‖gate_i‖ where there is one, (I,): the same however α is shared out.

    (α up, down / α) is the same neuron, and so it has the same score.
    """
    score: Tensor = neurons.up.norm(dim=1) * neurons.down.norm(dim=0)
    return score if neurons.gate is None else score * neurons.gate.norm(dim=1)


def _keep(neurons: Neurons, score: Tensor, width: int) -> FusedNeurons:
    index = score.argsort(descending=True, stable=True)[:width].sort().values
    return FusedNeurons(neurons.select(index), neurons.up.new_ones(width))
