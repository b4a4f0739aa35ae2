"""A new MLP of width k: what compression must beat to be worth anything."""

import zlib

import torch
from torch import Tensor

from edgefuse.mlps.neurons import FusedNeurons, Layer, Neurons

INITIALIZER_RANGE = 0.02  # of nearly every transformers configuration, whatever its width


def random(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Draw k neurons as transformers initialises a new model: N(0, 0.02²), biases zero, P = 1.

    b2 is the MLP's too and becomes zero.

    Args:
        layer: An MLP, dense or gated; only its name and shapes matter.
        width: k, from 1.
        seed: Seed of the weights, with the layer's name.
    """
    # Layers and experts are to differ: a router could not tell equal ones apart.
    generator = torch.Generator().manual_seed(seed + zlib.crc32(layer.name.encode()))
    shape = layer.neurons

    def normal(rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator) * INITIALIZER_RANGE
        return drawn.to(shape.up)

    def zeros(bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.new_zeros(width)

    neurons = Neurons(
        up=normal(width, shape.hidden_size),
        down=normal(shape.hidden_size, width),
        up_bias=zeros(shape.up_bias),
        gate=None if shape.gate is None else normal(width, shape.hidden_size),
        gate_bias=zeros(shape.gate_bias),
    )
    bias = None if layer.bias is None else torch.zeros_like(layer.bias)
    return FusedNeurons(neurons, shape.up.new_ones(width), bias)
