"""Single MLPs of every shape, with random weights and inputs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.mlps.neurons import Activation, FusedNeurons, Layer, Neurons

P, I = 6, 24  # noqa: E741 - the paper's name for the width
KINDS = ("dense", "dense without biases", "gated", "gated with biases")


def make(
    kind: str, activation: Activation = F.gelu, count: int = I, seed: int = 0, tokens: int = 50
) -> Layer:
    """Make an MLP of one of `KINDS`, `count` neurons wide, with inputs (tokens, P)."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    biases = kind in {"dense", "gated with biases"}
    gated = kind.startswith("gated")
    neurons = Neurons(
        up=draw(count, P),
        down=draw(P, count),
        up_bias=draw(count) if biases else None,
        gate=draw(count, P) if gated else None,
        gate_bias=draw(count) if gated and biases else None,
    )
    return Layer(neurons, activation, draw(P) if biases else None, draw(tokens, P))


def duplicated(layer: Layer, sizes: list[int]) -> Layer:
    """Repeat the first neurons, each as often as its entry in `sizes`, and shuffle them."""
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(1))]
    return Layer(layer.neurons.select(index), layer.activation, layer.bias, layer.inputs)


def output_of(layer: Layer) -> Tensor:
    """Compute the MLP's output by the formula."""
    assert layer.inputs is not None
    hidden = layer.neurons.hidden(layer.inputs, layer.activation)
    return F.linear(hidden, layer.neurons.down, layer.bias)


def output_as(fused: FusedNeurons, layer: Layer) -> Tensor:
    """Compute the output of what takes its place, of the same inputs."""
    assert layer.inputs is not None
    return fused.output(layer.inputs, layer.activation, layer.bias)


def error_of(fused: FusedNeurons, layer: Layer) -> float:
    """Sum the squares of how far the output is off there."""
    return float((output_as(fused, layer) - output_of(layer)).double().square().sum())


def as_points(neurons: Neurons) -> Tensor:
    """Join neurons into rows (I, d)."""
    return torch.cat([neurons.rows(), neurons.down.T], dim=1)
