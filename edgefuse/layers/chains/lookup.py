"""Make rows of a table that is a chain of tensors, without the table.

A row is a product of one slice of each tensor, taken at the digits of the row's number. No shape
follows what the numbers are, so that a graph can be exported.
"""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.layers.chains.contraction import TOKENS, thirds_of
from edgefuse.layers.chains.decomposition import CENTRAL, thirds
from edgefuse.layers.chains.dimensions import Dimensions

_PIECES = 8
"""Pieces in which the table is joined."""

_TABLES = 1.5
"""Tables as large as what is looked up until training through the table holds less."""


def by_two_parts(numbers: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Make each row of two slices: one of the left part, one of the rest of the chain, joined.

    That spares the product that costs most, of the left part with all of the rest. The bond between
    them is summed over piece by piece, for the rest may be as large as the table.

    Args:
        numbers: Numbers of rows, (…).
        tensors: Chain T_1 … T_5 of a table (I, J).

    Returns:
        The rows (…, J).
    """
    left, middle, right = thirds(tensors)
    (_, i, j, a), (_, k, h, b), (_, m, n, _) = left.shape, middle.shape, right.shape
    piece = max(1, i * j // _PIECES)
    first, rest = numbers // (k * m), numbers % (k * m)
    starts = F.embedding(first, left.permute(1, 3, 2, 0).reshape(i, a * j))
    starts = starts.reshape(*numbers.shape, a, j)
    right = right.permute(1, 2, 0, 3).reshape(1, m * n, b).expand(k, -1, -1)

    def part(start: Tensor, joint: Tensor) -> Tensor:
        joined = right @ joint.permute(1, 3, 2, 0).reshape(k, b, -1)
        end = F.embedding(rest, joined.reshape(k * m, -1))
        return end.reshape(*numbers.shape, n * h, -1) @ start

    parts = map(part, torch.split(starts, piece, dim=-2), torch.split(middle, piece))
    rows = reduce(torch.add, parts).reshape(*numbers.shape, n, h, j).transpose(-1, -3)
    return rows.reshape(*numbers.shape, j * h * n)


def suits(dimensions: Dimensions, bonds: Sequence[int], tokens: int = TOKENS) -> bool:
    """Tell whether training by `by_two_parts` holds no more than it does through the table.

    What is looked up for a batch is kept for the backward pass; of a table there are several, for
    its gradient is another, and both are transposed.

    Args:
        dimensions: Local dimensions of the table.
        bonds: Bonds d_1 … d_{n−1}.
        tokens: Row numbers in a batch.
    """
    (_, j), (_, h), (_, n) = thirds_of(dimensions)
    table = dimensions.padded_rows * dimensions.column_count
    return tokens * bonds[CENTRAL - 1] * (j + h * n) <= _TABLES * table
