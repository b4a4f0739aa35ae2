"""Clustering without P: each centroid scaled by √n before and behind the activation."""

from dataclasses import replace

import torch

from edgefuse.compression.kmeans import cluster, means
from edgefuse.mlps.neurons import Activation, FusedNeurons, Layer


def clustering(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Fuse by k-means, with √n on up, its bias and down in place of P (P = 1).

    √n act(√n z) = n act(z) holds where act is positively homogeneous, as ReLU is; that is the
    point of it as an ablation (Wei et al., ICML 2023, arXiv 2307.08941). In a gated MLP `up` is
    linear, the gate keeps its scale, and it holds for every activation. `misfit` says where it
    does not hold; it is computed all the same.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I.
        seed: Seed of the k-means.
    """
    neurons = layer.neurons
    labels = cluster(neurons, width, seed).to(neurons.up.device)
    rows, sizes = means(neurons.rows(), labels, width)
    down, _ = means(neurons.down.T, labels, width)
    root = sizes.to(rows).sqrt()
    fused = neurons.with_rows(rows, down.T * root)
    bias = None if fused.up_bias is None else fused.up_bias * root
    fused = replace(fused, up=fused.up * root[:, None], up_bias=bias)
    return FusedNeurons(fused, torch.ones_like(root))


def misfit(activation: Activation, *, gated: bool) -> str | None:
    """Why `clustering` changes what even duplicated neurons compute; None where it does not."""
    if gated or _is_homogeneous(activation):
        return None
    return (
        "√n on both sides of the activation is right for ReLU only, "
        "and this MLP has another activation"
    )


def _is_homogeneous(activation: Activation) -> bool:
    z = torch.linspace(-4, 4, 33)
    return torch.allclose(activation(3 * z), 3 * activation(z), rtol=1e-4, atol=1e-5)
