"""Correlation of numbers and of their ranks, in numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.floating]


def pearson(first: Numbers, second: Numbers) -> float:
    """Pearson's correlation; 0 where all numbers of a side are the same.

    scipy gives NaN there, which no epoch could be better or worse than.
    """
    a, b = (np.asarray(side, np.float64) for side in (first, second))
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # the mean of 0.1, 0.1 and 0.1 is another number
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))


def spearman(first: Numbers, second: Numbers) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal numbers sharing their mean rank."""
    return pearson(_ranks(first), _ranks(second))


def _ranks(numbers: Numbers) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks
