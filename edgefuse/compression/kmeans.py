"""k-means over neurons."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from edgefuse.compression.neurons import Neurons


def cluster(neurons: Neurons, width: int, seed: int) -> Tensor:
    """Cluster neurons by their weights.

    In a gated MLP (α up, down / α) is the same neuron for every α: there each neuron's up and down
    are compared at equal norms.

    Args:
        neurons: Dense or gated, float32.
        width: k, how many clusters there may be.
        seed: Same seed, same labels.

    Returns:
        Each neuron's cluster (I,), from 0 to k − 1; some clusters may be empty.
    """
    if neurons.gate is not None:
        neurons = _balanced(neurons)
    points = torch.cat([neurons.rows(), neurons.down.T], dim=1)
    return torch.from_numpy(_assign(points.cpu().numpy(), width, seed))


def _balanced(neurons: Neurons) -> Neurons:
    up, down = neurons.up.norm(dim=1), neurons.down.norm(dim=0)
    scale = torch.where((up > 0) & (down > 0), (down / up).sqrt(), torch.ones_like(up))
    bias = None if neurons.up_bias is None else neurons.up_bias * scale
    return Neurons(
        up=neurons.up * scale[:, None],
        down=neurons.down / scale,
        up_bias=bias,
        gate=neurons.gate,
        gate_bias=neurons.gate_bias,
    )


def _assign(points: NDArray[np.float32], width: int, seed: int) -> NDArray[np.int64]:
    distinct, labels = np.unique(points, axis=0, return_inverse=True)
    if len(distinct) <= width:
        return labels.astype(np.int64).reshape(-1)
    # One start: with hundreds of centroids, further ones change the inertia by under 1 %.
    # One thread: partial sums of several add up in any order, and the bytes would differ.
    kmeans = KMeans(n_clusters=width, n_init=1, random_state=seed)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near-duplicates: fewer clusters
        return np.asarray(kmeans.fit(points).labels_, dtype=np.int64)
