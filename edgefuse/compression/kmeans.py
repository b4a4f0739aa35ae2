"""MLP Fusion: neurons clustered by k-means (Wei et al., ICML 2023, arXiv 2307.08941)."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from edgefuse.compression.neurons import FusedNeurons, Neurons


def fuse_by_kmeans(neurons: Neurons, width: int, seed: int) -> FusedNeurons:
    """Cluster `u_i = [W1[i], b1[i], W2[:, i]]` into `width` centroids (paper, section 4).

    A gated MLP's points have its gate's rows too.

    Args:
        neurons: A block's, float32.
        width: k, from 1 to I. With no more than k distinct neurons the fusion is exact.
        seed: Of the k-means.

    Returns:
        Centroids, and the cluster sizes. A cluster can be empty (zero weights, multiplicity 0)
        where there are fewer distinct neurons than clusters.
    """
    rows = neurons.rows()
    points = torch.cat([rows, neurons.down.T], dim=1).numpy()
    labels = _assign(points, width, seed)
    sizes = np.bincount(labels, minlength=width)  # not `unique`: an empty cluster keeps its place
    sums = np.zeros((width, points.shape[1]), dtype=np.float64)
    np.add.at(sums, labels, points)
    centroids = torch.from_numpy((sums / np.maximum(sizes, 1)[:, None]).astype(np.float32))
    fused = neurons.with_rows(centroids[:, : rows.shape[1]], centroids[:, rows.shape[1] :].T)
    return FusedNeurons(fused, torch.from_numpy(sizes.astype(np.float32)))


def _assign(points: NDArray[np.float32], width: int, seed: int) -> NDArray[np.intp]:
    distinct, labels = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) <= width:
        return labels.astype(np.intp).reshape(-1)
    # One start: with hundreds of centroids, further ones change the inertia by under 1 %.
    # One thread: partial sums of several add up in any order, and the bytes would differ.
    kmeans = KMeans(n_clusters=width, n_init=1, random_state=seed)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near-duplicates: fewer clusters
        return np.asarray(kmeans.fit(points).labels_, dtype=np.intp)
