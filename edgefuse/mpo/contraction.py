"""A chain of tensors applied to activations, in the order that takes the fewest multiplications.

An activation may go along the chain, from its left end or its right; or the matrix is rebuilt and
applied. Rebuilding costs the same for one token as for a thousand, so it wins at large bonds, where
a sweep carries more numbers a token than the matrix has. At small ones the sweep does.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.mpo.decomposition import CENTRAL, joins_left_first, rebuild
from edgefuse.mpo.dimensions import Dimensions

TOKENS = 512
"""Of a batch, such as 8 texts of 64 tokens, for which an order is chosen."""

Order = Callable[[Tensor, Sequence[Tensor]], Tensor]


def from_the_left(activations: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Map activations (…, J) to (…, I), T_1 first."""
    state = activations[..., None, None, :]  # (…, rows done, bond, columns to come)
    for tensor in tensors:
        columns = (tensor.shape[2], state.shape[-1] // tensor.shape[2])
        state = state.reshape(*state.shape[:-1], *columns)
        state = torch.einsum("...dajr,aijb->...dibr", state, tensor).flatten(-4, -3)
    return state.flatten(-3)


def from_the_right(activations: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Map activations (…, J) to (…, I), T_n first."""
    state = activations[..., None, None]  # (…, columns to come, bond, rows done)
    for tensor in reversed(tensors):
        columns = (state.shape[-3] // tensor.shape[2], tensor.shape[2])
        state = state.reshape(*state.shape[:-3], *columns, *state.shape[-2:])
        state = torch.einsum("...rjbd,aijb->...raid", state, tensor).flatten(-2)
    return state.flatten(-3)


def rebuilt(activations: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Map activations (…, J) to (…, I) by the matrix."""
    return F.linear(activations, rebuild(tensors))


ORDERS: tuple[Order, ...] = (from_the_left, from_the_right, rebuilt)


def cheapest(dimensions: Dimensions, bonds: Sequence[int], tokens: int = TOKENS) -> Order:
    """The order of `ORDERS` that multiplies least.

    Args:
        dimensions: Of the matrix.
        bonds: d_1 … d_{n−1}.
        tokens: Rows of activations.
    """
    return min(ORDERS, key=lambda order: multiplications(order, dimensions, bonds, tokens))


def multiplications(
    order: Order, dimensions: Dimensions, bonds: Sequence[int], tokens: int = TOKENS
) -> int:
    """How many numbers an order multiplies, a pair each; the arguments are those of `cheapest`."""
    if order is rebuilt:
        rows, columns = dimensions.padded_rows, dimensions.column_count
        return rebuilding(dimensions, bonds) + tokens * rows * columns
    links = list(zip(pairwise((1, *bonds, 1)), dimensions.rows, dimensions.columns, strict=True))
    if order is from_the_right:
        links = [((right, left), i, j) for (left, right), i, j in reversed(links)]
    done, to_come, total = 1, dimensions.column_count, 0
    for (entry, exit_), i, j in links:
        total += done * entry * to_come * i * exit_
        done, to_come = done * i, to_come // j
    return tokens * total


def rebuilding(dimensions: Dimensions, bonds: Sequence[int]) -> int:
    """Multiplications of `decomposition.rebuild`."""
    ends = (1, *bonds, 1)
    sizes = [i * j for i, j in zip(dimensions.rows, dimensions.columns, strict=True)]
    total, left, right = 0, 1, 1
    for m in range(CENTRAL):
        total += left * ends[m] * sizes[m] * ends[m + 1] if m else 0
        left *= sizes[m]
    for m in range(len(sizes) - 1, CENTRAL, -1):
        total += ends[m] * sizes[m] * ends[m + 1] * right if m < len(sizes) - 1 else 0
        right *= sizes[m]
    a, b, middle = ends[CENTRAL], ends[CENTRAL + 1], sizes[CENTRAL]
    if joins_left_first((left, right), (a, b)):
        return total + left * middle * b * (a + right)
    return total + right * middle * a * (b + left)
