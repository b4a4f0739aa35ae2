"""MLP Fusion: k neurons that stand for all, and for how many each."""

import torch

from edgefuse.compression.kmeans import cluster
from edgefuse.compression.methods.select import select
from edgefuse.compression.neurons import FusedNeurons, Layer


def published(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Cluster `u_i = [up_i, its bias, down_i]` into k centroids, P the clusters' sizes.

    Wei et al., ICML 2023, arXiv 2307.08941, section 4. A gated MLP's points have its gate's rows
    too. What is averaged are the original weights.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I. With no more than k distinct neurons the fusion is exact.
        seed: Of the k-means.

    Returns:
        Centroids, and the cluster sizes. A cluster can be empty (zero weights, P = 0) where there
        are fewer distinct neurons than clusters.
    """
    neurons = layer.neurons
    rows = neurons.rows()
    points = torch.cat([rows, neurons.down.T], dim=1)
    labels = cluster(neurons, width, seed).to(points.device)
    sizes = torch.bincount(labels, minlength=width)  # not `unique`: an empty one keeps its place
    sums = points.new_zeros(width, points.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, points.double())
    centroids = (sums / sizes.clamp(min=1)[:, None]).to(points)
    fused = neurons.with_rows(centroids[:, : rows.shape[1]], centroids[:, rows.shape[1] :].T)
    return FusedNeurons(fused, sizes.to(points))


def mlp_fusion(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Choose real neurons by what they do on text; without text, fuse as published.

    The others flow into the chosen ones through the refit, and P is matched when all is done
    (`edgefuse.compression.multiplicity`).

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I.
        seed: Of the k-means, without text.
    """
    if layer.inputs is None or len(layer.inputs) == 0:
        return published(layer, width, seed)
    return select(layer, width)
