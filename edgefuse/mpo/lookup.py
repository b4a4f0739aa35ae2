"""Rows of a table that is a chain of tensors, without the table.

A row is a product of one slice of each tensor, taken at the digits of the row's number.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.mpo.contraction import TOKENS, rebuilding
from edgefuse.mpo.decomposition import CENTRAL, thirds
from edgefuse.mpo.dimensions import Dimensions


def one_by_one(numbers: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Each row by itself, slice after slice from the left.

    Args:
        numbers: Of rows, (…); no shape follows what they are.
        tensors: T_1 … T_5 of a table (I, J).

    Returns:
        The rows (…, J).
    """
    digits = []
    rest = numbers
    for tensor in reversed(tensors):
        digits.append(rest % tensor.shape[1])
        rest = rest // tensor.shape[1]
    state: Tensor = tensors[CENTRAL].new_ones(1, 1)  # (…, columns done, bond)
    for tensor, digit in zip(tensors, reversed(digits), strict=True):
        a, i, j, b = tensor.shape
        slices = F.embedding(digit, tensor.transpose(0, 1).reshape(i, -1))
        state = state @ slices.reshape(*numbers.shape, a, j * b)
        state = state.reshape(*numbers.shape, -1, b)
    return state.squeeze(-1)


def suits_one_by_one(dimensions: Dimensions, bonds: Sequence[int]) -> bool:
    """Whether `one_by_one` takes fewer multiplications for a batch than rebuilding the table.

    And its slices are no larger than that.
    """
    table = dimensions.padded_rows * dimensions.column_count
    middle = bonds[CENTRAL - 1] * dimensions.columns[CENTRAL] * bonds[CENTRAL]
    total, done = 0, 1
    for a, j, b in zip((1, *bonds), dimensions.columns, (*bonds, 1), strict=True):
        total += done * a * j * b  # (columns done, a) times (a, j b)
        done *= j
    return TOKENS * middle <= table and TOKENS * total < rebuilding(dimensions, bonds)


def all_at_once(numbers: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Different rows together: what they have in common is multiplied once.

    Args:
        numbers: Of rows (n,), ascending, none twice; shapes follow what they are.
        tensors: T_1 … T_5 of a table (I, J).

    Returns:
        The rows (n, J).
    """
    left, middle, right = thirds(tensors)
    (_, _, j, a), (_, k, h, b), (_, m, n, _) = left.shape, middle.shape, right.shape
    starts, start_of = torch.unique(numbers // m, return_inverse=True)  # digits but the right ones
    of_left, of_middle = starts // k, starts % k
    by_middle = of_middle.argsort(stable=True)
    slices = F.embedding(of_left[by_middle], left.squeeze(0).flatten(1)).reshape(-1, a)
    sizes = (j * of_middle.bincount(minlength=k)).tolist()
    parts = [
        part @ middle[:, digit].flatten(1) for digit, part in enumerate(torch.split(slices, sizes))
    ]
    met = torch.cat(parts).reshape(len(starts), j * h * b)
    whole = F.embedding(by_middle.argsort()[start_of], met).reshape(-1, j * h, b)
    ends = F.embedding(numbers % m, right.squeeze(-1).transpose(0, 1).reshape(m, b * n))
    return (whole @ ends.reshape(-1, b, n)).reshape(-1, j * h * n)


def suits_all_at_once(count: int, dimensions: Dimensions, bonds: Sequence[int]) -> bool:
    """Whether what `all_at_once` holds for so many rows is no larger than the table."""
    of_a_row = prod(dimensions.columns[: CENTRAL + 1]) * bonds[CENTRAL]
    return count * of_a_row <= dimensions.padded_rows * dimensions.column_count
