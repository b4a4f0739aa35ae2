"""k-means over neurons: scikit-learn's, but for the choice of the first centroids.

That choice takes most of scikit-learn's time, and is read off a Gram matrix here. `lloyd` is the
same algorithm for a GPU, which scikit-learn does not use.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from edgefuse.mlps.neurons import Neurons

_STARTS = 3  # with hundreds of centroids within 1 % of the inertia of 30
_ITERATIONS, _TOLERANCE = 300, 1e-4  # scikit-learn's
_AT_ONCE = 512
_FEW = 8  # of a point's coordinates


def cluster(neurons: Neurons, width: int, seed: int) -> Tensor:
    """Cluster neurons by their weights.

    In a gated MLP (α up, down / α) is the same neuron for every α: there each neuron's up and down
    are compared at equal norms.

    Args:
        neurons: Dense or gated, float32.
        width: k, how many clusters there may be.
        seed: Seed of the clustering.

    Returns:
        Each neuron's cluster (I,), from 0 to k − 1; some clusters may be empty.
    """
    points = _points(neurons)
    if points.is_cpu:
        return torch.from_numpy(_assign(points.numpy(), width, seed))
    return lloyd(points, width, seed)


def _points(neurons: Neurons) -> Tensor:
    if neurons.gate is not None:
        neurons = _balanced(neurons)
    return torch.cat([neurons.rows(), neurons.down.T], dim=1)


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


def means(points: Tensor, labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Average clusters.

    Args:
        points: (I, d).
        labels: Cluster of each point (I,).
        width: k.

    Returns:
        The means (k, d), zero of an empty cluster, and the clusters' sizes (k,).
    """
    sizes = torch.bincount(labels, minlength=width)  # not `unique`: an empty one keeps its place
    sums = points.new_zeros(width, points.shape[1], dtype=torch.float64)
    for some, of_some in zip(
        torch.split(points, _AT_ONCE), torch.split(labels, _AT_ONCE), strict=True
    ):
        sums.index_add_(0, of_some, some.double())
    return (sums / sizes.clamp(min=1)[:, None]).to(points), sizes


def _assign(points: NDArray[np.float32], width: int, seed: int) -> NDArray[np.int64]:
    if len(np.unique(points[:, :_FEW], axis=0)) <= width:  # else the whole is not worth sorting
        distinct, labels = np.unique(points, axis=0, return_inverse=True)
        if len(distinct) <= width:
            return labels.astype(np.int64).reshape(-1)
    # One thread: partial sums of several add up in any order, and the bytes would differ.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near-duplicates: fewer clusters
        kmeans = KMeans(
            n_clusters=width,
            n_init=_STARTS,
            init=_Seeds(points @ points.T),
            random_state=seed,
            copy_x=False,  # it would centre a copy; these points are not needed afterwards
        )
        return np.asarray(kmeans.fit(points).labels_, dtype=np.int64)


def lloyd(points: Tensor, width: int, seed: int) -> Tensor:
    """Cluster points (I, d) on a GPU, by scikit-learn's algorithm from the same starts.

    Sums are matrix products, whose order of additions is the same every time.

    Args:
        points: Float32.
        width: k.
        seed: Seed of the starts.

    Returns:
        Each point's cluster (I,).
    """
    distinct, own = torch.unique(points, dim=0, return_inverse=True)
    if len(distinct) <= width:
        labels: Tensor = own
        return labels
    choose = _Seeds((points @ points.T).cpu().numpy()).choose
    random_state = np.random.RandomState(seed)
    found = []
    for _ in range(_STARTS):
        chosen = torch.from_numpy(choose(width, random_state)).to(points.device)
        found.append(settle(points, points[chosen]))
    return min(found, key=lambda one: one[1])[0]


def settle(points: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """Lloyd's iterations: each point's cluster, and the inertia."""
    squares = points.square().sum(dim=1)
    enough = _TOLERANCE * float(points.var(dim=0, correction=0).mean())
    for _ in range(_ITERATIONS):
        distances = centroids.square().sum(dim=1) - 2 * points @ centroids.T
        nearest, labels = distances.min(dim=1)
        members = torch.zeros_like(distances).scatter_(1, labels[:, None], 1)
        sizes = members.sum(dim=0)
        moved = members.T @ points / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero()[:, 0]
        if len(empty):  # they go to the points that are farthest from any
            moved[empty] = points[(nearest + squares).topk(len(empty)).indices]
        shift = float((moved - centroids).square().sum())
        centroids = moved
        if shift <= enough and not len(empty):
            break
    return labels, float((nearest + squares).double().sum())


class _Seeds:
    """Greedy k-means++ (Arthur & Vassilvitskii, SODA 2007), as scikit-learn has it.

    That one computes the distances to each candidate from the points, thousands of times, and takes
    most of the whole clustering's time. Here they are read off the Gram matrix.
    """

    def __init__(self, gram: NDArray[np.float32]) -> None:
        self.gram = gram  # (I, I)
        self.squares = gram.diagonal()

    def __call__(
        self, points: NDArray[np.float32], count: int, random_state: np.random.RandomState
    ) -> NDArray[np.float32]:
        """Choose `count` of the points (I, d): the first centroids (count, d)."""
        return points[self.choose(count, random_state)]

    def choose(self, count: int, random_state: np.random.RandomState) -> NDArray[np.int64]:
        """Choose the indices of the first centroids (count,)."""
        chosen = random_state.randint(len(self.squares), size=1)
        nearest = self._distances(chosen)[0]
        seeds = [chosen[0]]
        candidates = 2 + int(np.log(count))
        while len(seeds) < count:
            total = nearest.cumsum(dtype=np.float64)
            drawn = np.searchsorted(total, random_state.uniform(size=candidates) * total[-1])
            drawn = drawn.clip(max=len(self.squares) - 1)
            nearer = np.minimum(nearest, self._distances(drawn))
            best = nearer.sum(axis=1).argmin()
            nearest = nearer[best]
            seeds.append(drawn[best])
        return np.asarray(seeds, dtype=np.int64)

    def _distances(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Squared, from these points to all, (len(index), I)."""
        squares = self.squares + self.squares[index][:, None] - 2 * self.gram[index]
        return squares.clip(min=0)
