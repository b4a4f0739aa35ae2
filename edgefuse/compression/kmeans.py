"""MLP Fusion: neurons clustered by k-means (Wei et al., ICML 2023, arXiv 2307.08941)."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor


@dataclass(frozen=True)
class Neurons:
    """The sub-MLPs of a block: neuron i is W1's row i, b1[i] and W2's column i.

    Attributes:
        w1: (I, p).
        b1: (I,).
        w2: (p, I).
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor


@dataclass(frozen=True)
class FusedNeurons:
    """The k neurons that stand for all, and for how many each.

    Attributes:
        neurons: W1c (k, p), b1c (k,), W2c (p, k).
        multiplicity: P's diagonal (k,), whole numbers as floats; their sum is I.
    """

    neurons: Neurons
    multiplicity: Tensor


def fuse_by_kmeans(neurons: Neurons, width: int, seed: int) -> FusedNeurons:
    """Cluster `u_i = [W1[i], b1[i], W2[:, i]]` into `width` centroids (paper, section 4).

    Args:
        neurons: A block's, float32.
        width: k, from 1 to I. With no more than k distinct neurons the fusion is exact.
        seed: Of the k-means.

    Returns:
        Centroids, and the cluster sizes. A cluster can be empty (zero weights, multiplicity 0)
        where there are fewer distinct neurons than clusters.
    """
    hidden_size = neurons.w1.shape[1]
    points = torch.cat([neurons.w1, neurons.b1[:, None], neurons.w2.T], dim=1).numpy()
    labels = _assign(points, width, seed)
    sizes = np.bincount(labels, minlength=width)  # not `unique`: an empty cluster keeps its place
    sums = np.zeros((width, points.shape[1]), dtype=np.float64)
    np.add.at(sums, labels, points)
    centroids = torch.from_numpy((sums / np.maximum(sizes, 1)[:, None]).astype(np.float32))
    fused = Neurons(
        w1=centroids[:, :hidden_size].contiguous(),
        b1=centroids[:, hidden_size].contiguous(),
        w2=centroids[:, hidden_size + 1 :].T.contiguous(),
    )
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
