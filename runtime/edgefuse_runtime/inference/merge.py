"""Plain weights from the tensors that train in their place, as the manifest's merges say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.bundle.manifest import LowRankUpdate, MatrixProduct, Merge, Perceptron

_Tensors = Mapping[str, NDArray[Any]]


def merged(merges: Sequence[Merge], tensors: _Tensors) -> dict[str, NDArray[Any]]:
    """Every tensor of a plain model: weights that merges make, and none that they are made of.

    Args:
        merges: Recipes, of which none reads what another makes.
        tensors: Frozen and trained ones by name. Not changed.
    """
    made = {recipe.weight: _make(recipe, tensors) for recipe in merges}
    taken = {name for recipe in merges for name in recipe.parts}
    return {**{name: t for name, t in tensors.items() if name not in taken}, **made}


def _make(recipe: Merge, tensors: _Tensors) -> NDArray[np.float32]:
    match recipe:
        case LowRankUpdate():
            return _low_rank_update(recipe, tensors)
        case MatrixProduct():
            return _matrix_product(recipe, tensors)
        case Perceptron():
            return _perceptron(recipe, tensors)


def _low_rank_update(recipe: LowRankUpdate, tensors: _Tensors) -> NDArray[np.float32]:
    """W + scale · B A (Hu et al., LoRA, arXiv 2106.09685, section 4.1)."""
    update = tensors[recipe.b] @ tensors[recipe.a]
    update *= np.float32(recipe.scale)
    weight: NDArray[np.float32] = tensors[recipe.weight] + (
        update.T if recipe.transposed else update
    )
    return weight


def _matrix_product(recipe: MatrixProduct, tensors: _Tensors) -> NDArray[np.float32]:
    """Σ T_1 … T_n, rows before columns (Liu et al., ACL 2021, arXiv 2106.02205, equation 1)."""
    whole = tensors[recipe.tensors[0]]
    for name in recipe.tensors[1:]:
        whole = np.tensordot(whole, tensors[name], 1)
    axes = range(1, whole.ndim - 1)  # without the bonds at both ends, of one
    pairs = whole.transpose(0, *axes[::2], *axes[1::2], whole.ndim - 1)
    rows = math.prod(whole.shape[axis] for axis in axes[::2])
    matrix = pairs.reshape(rows, -1)[: recipe.rows]
    return np.ascontiguousarray(matrix.T if recipe.transposed else matrix)


def _perceptron(recipe: Perceptron, tensors: _Tensors) -> NDArray[np.float32]:
    """Prefixes from their reparametrization (Li and Liang, arXiv 2101.00190, section 4.3)."""
    hidden = np.tanh(
        tensors[recipe.inputs] @ tensors[recipe.hidden_weight].T + tensors[recipe.hidden_bias]
    )
    made: NDArray[np.float32] = hidden @ tensors[recipe.output_weight].T
    return made + tensors[recipe.output_bias]


def along(values: np.ndarray, *, axis: int, rank: int) -> np.ndarray:
    """A value for each neuron, in the shape that multiplies a tensor.

    Args:
        values: (k,), or (E, 1, k) of a stack of E experts, which lie along the tensor's first axis.
        axis: Of the tensor, along which neurons lie.
        rank: The tensor's.
    """
    shape = [1] * rank
    if values.ndim > 1:
        shape[0] = len(values)
    shape[axis] = values.shape[-1]
    return values.reshape(shape)
