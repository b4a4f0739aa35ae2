"""Merges: how the board makes a weight of the plain model from the tensors that train.

Merges are applied in order, and one may read what another made: a chain becomes a matrix, LoRA
updates the matrix, and P is folded into the sum.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class LowRankUpdate(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="low-rank-update"
):
    """W + scale · B A (Hu et al., LoRA, arXiv 2106.09685, section 4.1).

    Attributes:
        weight: W, of shape (rows, columns); the result takes its name.
        a: A, of shape (rank, columns).
        b: B, of shape (rows, rank).
        scale: α / rank.
        transposed: Whether W is kept as (columns, rows).
    """

    weight: str
    a: str
    b: str
    scale: float
    transposed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        return self.a, self.b

    def make(self, tensors: Tensors) -> NDArray[Any]:
        """The plain weight."""
        update = tensors[self.b] @ tensors[self.a]
        update *= np.float32(self.scale)
        weight: NDArray[Any] = tensors[self.weight] + (update.T if self.transposed else update)
        return weight


class MatrixProduct(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="matrix-product"
):
    """Σ T_1 … T_n, a chain of tensors (Liu et al., ACL 2021, arXiv 2106.02205, equation 1).

    Attributes:
        weight: Name of the result, of shape (rows, columns).
        tensors: Names of T_1 … T_n in order, each of shape (d_{m−1}, i_m, j_m, d_m).
        rows: Rows of the result; the chain may have more, which are padding.
        transposed: Whether the weight is kept as (columns, rows).
    """

    weight: str
    tensors: list[str]
    rows: int
    transposed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        return tuple(self.tensors)

    def make(self, tensors: Tensors) -> NDArray[Any]:
        """The plain weight."""
        whole = tensors[self.tensors[0]]
        for name in self.tensors[1:]:
            whole = np.tensordot(whole, tensors[name], 1)
        axes = range(1, whole.ndim - 1)  # without the bonds at both ends, which are 1
        pairs = whole.transpose(0, *axes[::2], *axes[1::2], whole.ndim - 1)
        rows = math.prod(whole.shape[axis] for axis in axes[::2])
        matrix = pairs.reshape(rows, -1)[: self.rows]
        return np.ascontiguousarray(matrix.T if self.transposed else matrix)


class Perceptron(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="perceptron"):
    """tanh(X W1ᵀ + b1) W2ᵀ + b2: prefixes of (length, …) from their reparametrization.

    Li and Liang, arXiv 2101.00190, section 4.3.

    Attributes:
        weight: Name of the result.
        inputs: X.
        hidden_weight: W1.
        hidden_bias: b1.
        output_weight: W2.
        output_bias: b2.
    """

    weight: str
    inputs: str
    hidden_weight: str
    hidden_bias: str
    output_weight: str
    output_bias: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        hidden = self.hidden_weight, self.hidden_bias
        return self.inputs, *hidden, self.output_weight, self.output_bias

    def make(self, tensors: Tensors) -> NDArray[Any]:
        """The prefixes."""
        hidden = np.tanh(
            tensors[self.inputs] @ tensors[self.hidden_weight].T + tensors[self.hidden_bias]
        )
        made: NDArray[Any] = hidden @ tensors[self.output_weight].T
        return made + tensors[self.output_bias]


class Fold(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fold"):
    """W2 · diag(P): the multiplicities of fused neurons, folded into a down-projection.

    Attributes:
        weight: W2, trained, frozen or made by a merge before.
        multiplicity: P, a tensor of frozen.safetensors, of shape (width,); of a stack of E experts
            (E, 1, width).
        axis: The axis of the weight along which neurons lie.
    """

    weight: str
    multiplicity: str
    axis: int

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        return (self.multiplicity,)

    def make(self, tensors: Tensors) -> NDArray[Any]:
        """The plain weight."""
        weight = tensors[self.weight]
        product: NDArray[Any] = weight * along(
            tensors[self.multiplicity], axis=self.axis, rank=weight.ndim
        )
        return product


Merge = LowRankUpdate | MatrixProduct | Perceptron | Fold
"""A tagged union."""


def merged(merges: Sequence[Merge], tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Every tensor of a plain model: the weights that merges make, and none of their parts.

    Args:
        merges: Recipes in the order in which they are applied.
        tensors: Frozen and trained tensors by name. Not changed.
    """
    made = dict(tensors)
    for merge in merges:
        made[merge.weight] = merge.make(made)
    parts = {part for merge in merges for part in merge.parts}
    return {name: tensor for name, tensor in made.items() if name not in parts}


def along(values: np.ndarray, *, axis: int, rank: int) -> np.ndarray:
    """Values of neurons in the shape that multiplies a tensor.

    Args:
        values: (k,), or (E, 1, k) of a stack of E experts, which lie along the tensor's first axis.
        axis: The tensor's axis along which neurons lie.
        rank: Count of the tensor's axes.
    """
    shape = [1] * rank
    if values.ndim > 1:
        shape[0] = len(values)
    shape[axis] = values.shape[-1]
    return values.reshape(shape)
