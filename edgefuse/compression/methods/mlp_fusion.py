"""MLP Fusion: k neurons that stand for all, and for how many each."""

from edgefuse.compression.kmeans import cluster, means
from edgefuse.compression.methods.select import select
from edgefuse.mlps.neurons import FusedNeurons, Layer


def published(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Cluster `u_i = [up_i, its bias, down_i]` into k centroids, P the clusters' sizes.

    Wei et al., ICML 2023, arXiv 2307.08941, section 4. A gated MLP's points have its gate's rows
    too. What is averaged are the original weights.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I. With no more than k distinct neurons the fusion is exact.
        seed: Seed of the k-means.

    Returns:
        Centroids, and the cluster sizes. A cluster can be empty (zero weights, P = 0) where there
        are fewer distinct neurons than clusters.
    """
    neurons = layer.neurons
    labels = cluster(neurons, width, seed).to(neurons.up.device)
    rows, sizes = means(neurons.rows(), labels, width)
    down, _ = means(neurons.down.T, labels, width)
    fused = neurons.with_rows(rows, down.T)
    return FusedNeurons(fused, sizes.to(rows))


def mlp_fusion(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Choose real neurons by what they do on text; without text, fuse as published.

    The others flow into the chosen ones through the refit, and P is matched when all is done
    (`edgefuse.compression.multiplicity`).

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I.
        seed: Seed of the k-means, without text.
    """
    if layer.inputs is None or len(layer.inputs) == 0:
        return published(layer, width, seed)
    return select(layer, width)
