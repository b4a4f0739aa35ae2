"""Apply a chain of tensors to activations, in the order that takes the fewest multiplications.

An activation may go along the chain, from its left end or its right; or the matrix is rebuilt and
applied. Rebuilding costs the same for one token as for a thousand, so it wins at large bonds, where
a sweep carries more numbers a token than the matrix has. At small ones the sweep does.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor

from edgefuse.layers.chains.decomposition import CENTRAL, joins_left_first, rebuild, thirds
from edgefuse.layers.chains.dimensions import Dimensions

TOKENS = 512
"""Tokens of a batch, such as 8 texts of 64, for which an order is chosen."""

Order = Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]


def from_the_left(
    activations: Tensor, tensors: Sequence[Tensor], bias: Tensor | None = None
) -> Tensor:
    """Map activations (…, J) to (…, I), what is left of the central tensor first.

    Args:
        activations: Inputs (…, J).
        tensors: Chain T_1 … T_n.
        bias: Bias (I,) to add, or None.
    """
    left, middle, right = thirds(tensors)
    (_, i, j, a), (_, k, h, b), (_, m, n, _) = left.shape, middle.shape, right.shape
    state = activations.reshape(-1, j, h * n).transpose(1, 2)
    state = state @ left.permute(0, 2, 1, 3).reshape(j, i * a)
    state = state.reshape(-1, h, n, i, a).permute(0, 2, 3, 1, 4).reshape(-1, n * i, h * a)
    state = state @ middle.permute(2, 0, 1, 3).reshape(h * a, k * b)
    state = state.reshape(-1, n, i * k, b).transpose(1, 2).reshape(-1, i * k, n * b)
    state = state @ right.permute(2, 0, 1, 3).reshape(n * b, m)
    output = state.reshape(*activations.shape[:-1], i * k * m)
    return output if bias is None else output + bias


def from_the_right(
    activations: Tensor, tensors: Sequence[Tensor], bias: Tensor | None = None
) -> Tensor:
    """Map activations (…, J) to (…, I), what is right of the central tensor first.

    The arguments are those of `from_the_left`.
    """
    left, middle, right = thirds(tensors)
    (_, i, j, a), (_, k, h, b), (_, m, n, _) = left.shape, middle.shape, right.shape
    state = activations.reshape(-1, j * h, n)
    state = state @ right.permute(2, 0, 1, 3).reshape(n, b * m)
    state = state.reshape(-1, j, h * b, m).transpose(2, 3).reshape(-1, j * m, h * b)
    state = state @ middle.permute(2, 3, 0, 1).reshape(h * b, a * k)
    state = state.reshape(-1, j, m, a, k).permute(0, 4, 2, 1, 3).reshape(-1, k * m, j * a)
    state = state @ left.permute(0, 2, 3, 1).reshape(j * a, i)
    output = state.transpose(1, 2).reshape(*activations.shape[:-1], i * k * m)
    return output if bias is None else output + bias


def rebuilt(activations: Tensor, tensors: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """Map activations (…, J) to (…, I) by the matrix; the arguments are `from_the_left`'s."""
    return F.linear(activations, rebuild(tensors), bias)


ORDERS: tuple[Order, ...] = (from_the_left, from_the_right, rebuilt)


def cheapest(dimensions: Dimensions, bonds: Sequence[int], tokens: int = TOKENS) -> Order:
    """Choose the order of `ORDERS` that multiplies least.

    Args:
        dimensions: Local dimensions of the matrix.
        bonds: Bonds d_1 … d_{n−1}.
        tokens: Rows of activations.
    """
    return min(ORDERS, key=lambda order: multiplications(order, dimensions, bonds, tokens))


def multiplications(
    order: Order, dimensions: Dimensions, bonds: Sequence[int], tokens: int = TOKENS
) -> int:
    """Count the multiplications of an order; the arguments are those of `cheapest`."""
    if order is rebuilt:
        whole = dimensions.padded_rows * dimensions.column_count
        return rebuilding(dimensions, bonds) + tokens * whole
    (i, j), (k, h), (m, n) = thirds_of(dimensions)
    a, b = bonds[CENTRAL - 1], bonds[CENTRAL]
    if order is from_the_left:
        of_a_token = h * n * j * i * a + n * i * h * a * k * b + i * k * n * b * m
    else:
        of_a_token = j * h * n * b * m + j * m * h * b * a * k + k * m * j * a * i
    return merging(dimensions, bonds) + tokens * of_a_token


def rebuilding(dimensions: Dimensions, bonds: Sequence[int]) -> int:
    """Count the multiplications of `decomposition.rebuild`."""
    left, middle, right = (i * j for i, j in thirds_of(dimensions))
    a, b = bonds[CENTRAL - 1], bonds[CENTRAL]
    if joins_left_first((left, right), (a, b)):
        joining = left * middle * b * (a + right)
    else:
        joining = right * middle * a * (b + left)
    return merging(dimensions, bonds) + joining


def merging(dimensions: Dimensions, bonds: Sequence[int]) -> int:
    """Count the multiplications of `decomposition.thirds`, of five tensors."""
    first, second, _, fourth, fifth = (
        i * j for i, j in zip(dimensions.rows, dimensions.columns, strict=True)
    )
    return first * second * bonds[0] * bonds[1] + fourth * fifth * bonds[2] * bonds[3]


def thirds_of(dimensions: Dimensions) -> list[tuple[int, int]]:
    """Count rows and columns of what is left of the central tensor, of it, and of what is right."""
    parts = (slice(CENTRAL), slice(CENTRAL, CENTRAL + 1), slice(CENTRAL + 1, None))
    return [(prod(dimensions.rows[part]), prod(dimensions.columns[part])) for part in parts]
