"""Share a matrix's rows and columns out among the tensors of a chain: its local dimensions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

TENSORS = 5
"""n, the count of tensors of a chain, as the authors have it."""

_PADDING = 0.01
"""Part of its rows that a table may grow by, for better factors."""


@dataclass(frozen=True)
class Dimensions:
    """Local dimensions of a chain whose matrix has I rows and J columns.

    Attributes:
        rows: Factors i_1 … i_n, whose product is I or, for a padded table, a little more.
        columns: Factors j_1 … j_n, whose product is J.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @cached_property
    def full_bonds(self) -> tuple[int, ...]:
        """Bonds d_0 … d_n at which nothing is lost: min(Π_{l≤m} i_l j_l, Π_{l>m} i_l j_l)."""
        sizes = [i * j for i, j in zip(self.rows, self.columns, strict=True)]
        return tuple(min(math.prod(sizes[:m]), math.prod(sizes[m:])) for m in range(len(sizes) + 1))

    @property
    def padded_rows(self) -> int:
        """Π i_m: I, or a little more."""
        return math.prod(self.rows)

    @property
    def column_count(self) -> int:
        """Π j_m: J."""
        return math.prod(self.columns)


def choose_dimensions(rows: int, columns: int, *, pads: bool = False) -> Dimensions:
    """Choose the local dimensions of a matrix.

    Factors are as even as they can be, the largest in the middle, where the central tensor is. For
    768 × 3072 and 768 × 768 they are those of Liu et al. (ACL 2021, arXiv 2106.02205).

    Args:
        rows: Count I of rows.
        columns: Count J of columns.
        pads: The chain may have up to a hundredth more rows, where their factors are more even: a
            vocabulary's count may have a large prime in it.
    """
    most = rows + int(rows * _PADDING) if pads else rows
    best = min((_even_factors(count) for count in range(rows, most + 1)), key=sum)
    return Dimensions(_around_the_middle(best), _around_the_middle(_even_factors(columns))[::-1])


def _around_the_middle(factors: tuple[int, ...]) -> tuple[int, ...]:
    """Order ascending factors so that both ends have like products; columns mirror rows.

    Both bonds at the central tensor, and with them the auxiliary tensors, are then small.
    """
    first, second, third, fourth, largest = factors
    return first, fourth, largest, third, second


@cache
def _even_factors(number: int) -> tuple[int, ...]:
    """Find the `TENSORS` factors of a number whose sum is least, ascending."""
    return min(_factorisations(number, TENSORS, 1), key=lambda f: (sum(f), f))


def _factorisations(number: int, count: int, least: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write a number as that many factors, ascending, none below `least`."""
    if count == 1:
        yield (number,)
        return
    for factor in range(least, int(number ** (1 / count) + 1e-9) + 1):
        if number % factor == 0:
            for rest in _factorisations(number // factor, count - 1, factor):
                yield (factor, *rest)
