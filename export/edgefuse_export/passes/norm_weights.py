"""How much of a gradient counts in the global norm, where a neuron stands for several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_runtime.graph.merges import LowRankUpdate, Merge, along


@dataclass(frozen=True)
class NormWeight:
    """What a parameter's gradient is multiplied by in the norm.

    Attributes:
        values: 1/√n for each neuron, float32 (k,); (E, 1, k) of a stack of E experts.
        axis: The axis of the parameter along which neurons lie; experts lie along the first.
    """

    values: np.ndarray
    axis: int

    def broadcast(self, rank: int) -> np.ndarray:
        """The values in a shape of that rank which multiplies the gradient."""
        return along(self.values, axis=self.axis, rank=rank)

    def neurons(self, rank: int) -> np.ndarray:
        """1/n in such a shape: the part of a fused row's gradient that is one neuron's."""
        return along(np.square(self.values), axis=self.axis, rank=rank)

    @property
    def inverse(self) -> "NormWeight":
        """The weight of a gradient that is divided by n."""
        return NormWeight(1 / self.values, self.axis)


def norm_weights(
    fused: Sequence[FusedMLP], merges: Sequence[Merge], tensors: Mapping[str, np.ndarray]
) -> dict[str, NormWeight]:
    """Weights in the norm by parameter; those that are missing weigh 1.

    Args:
        fused: The fused blocks.
        merges: Recipes of weights that train in parts.
        tensors: Tensors of the model by name, P among them.
    """
    weights = {}
    for block in fused:
        n = tensors[block.multiplicity]
        root = 1 / np.sqrt(np.where(n > 0, n, 1))  # a neuron of n = 0 has no gradient
        for name, axis in block.neuron_axes.items():
            if name not in tensors:  # a chain in its place has no neurons either
                continue
            # Gate and up in one matrix: neurons twice over.
            times = tensors[name].shape[axis] // n.shape[-1]
            weights[name] = NormWeight(np.tile(root, times).astype(np.float32), axis)
    for merge in merges:
        if isinstance(merge, LowRankUpdate) and merge.weight in weights:
            weight = weights[merge.weight]
            gives_neurons = (weight.axis == 0) != merge.transposed
            part, axis = (merge.b, 0) if gives_neurons else (merge.a, 1)
            weights[part] = NormWeight(weight.values, axis)
    return weights
