"""Sketching: neurons mixed by a random matrix that is orthogonal in expectation."""

import torch

from edgefuse.compression.methods.prune import by_weight_norms
from edgefuse.mlps.neurons import FusedNeurons, Layer, Neurons


def sketch(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Mix I neurons into k: up' = Sᵀ up (its bias and the gate alike), down' = down S, P = 1.

    S (I, k) is Gaussian with variance 1/k, so that E[S Sᵀ] is the identity: right on average
    where nothing stands between up and down (Wei et al., ICML 2023, arXiv 2307.08941, baselines).

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1.
        seed: Seed of S.
    """
    return _alone(_sketched(layer.neurons, width, seed))


def sketch_top(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """As `sketch`, but the third of k with the largest weight norms is kept as it is.

    The third is the published variant's: 256 neurons of k = 768.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1.
        seed: Seed of S, which mixes all the other neurons into the other k.
    """
    neurons = layer.neurons
    order = by_weight_norms(neurons).argsort(descending=True, stable=True)
    if width >= neurons.width:  # nothing is left to mix
        return _alone(neurons)
    kept = neurons.select(order[: width // 3])
    mixed = _sketched(neurons.select(order[width // 3 :]), width - width // 3, seed)
    return _alone(
        neurons.with_rows(
            torch.cat([kept.rows(), mixed.rows()]), torch.cat([kept.down, mixed.down], dim=1)
        )
    )


def _sketched(neurons: Neurons, width: int, seed: int) -> Neurons:
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(neurons.width, width, generator=generator).to(neurons.up) / width**0.5
    return neurons.with_rows(s.T @ neurons.rows(), neurons.down @ s)


def _alone(neurons: Neurons) -> FusedNeurons:
    return FusedNeurons(neurons, neurons.up.new_ones(neurons.width))
