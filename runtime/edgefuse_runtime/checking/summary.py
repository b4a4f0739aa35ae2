"""Arrays in two numbers each, and parameters without zeros: the same on every machine.

Random bits come from a counter-based generator's raw stream, which numpy never changes (its
NEP 19), and not from distributions, which it may.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20
"""Elements that are looked at together: a board has no memory for an embedding in float64."""
_SPREAD = 0.35
"""Width of the range of values in the place of zeros: their standard deviation is 0.1."""
_NOISE = 1e-7
"""Norm or entry of a gradient below which everything is rounding."""
_SHARE = 1e-4
"""Part of the largest gradient below which the others are rounding, as that of a key's bias."""


class Summary(NamedTuple):
    """An array in two numbers.

    Attributes:
        norm: Euclidean norm.
        projection: Product with a vector of random signs. Of a difference d it is about as large as
            ‖d‖, so that arrays of one norm are told apart.
    """

    norm: float
    projection: float

    def difference(self, other: "Summary", *, floor: float) -> float:
        """How far another array is from this one, as a part of this one's norm.

        Args:
            other: Summary of the other array, by the same key.
            floor: Number that is added to the norm.
        """
        distance = max(abs(other.norm - self.norm), abs(other.projection - self.projection))
        return distance / (self.norm + floor)


def summarize(array: NDArray[Any], key: int) -> Summary:
    """Compute norm and projection in float64.

    Args:
        array: Numbers in any shape.
        key: Seed of the random signs.
    """
    flat = np.ravel(array)
    squares = projection = 0.0
    for chunk, start in enumerate(range(0, flat.size, _CHUNK)):
        part = flat[start : start + _CHUNK].astype(np.float64)
        bits = np.unpackbits(_random(-(-part.size // 64), key, chunk).view(np.uint8))
        squares += float(part @ part)
        projection += float(part @ (1.0 - 2.0 * bits[: part.size]))
    return Summary(math.sqrt(squares), projection)


def floor_of(largest: float) -> float:
    """What the size of a gradient is raised by before a difference is divided by it.

    Args:
        largest: The largest such size among all gradients.
    """
    return _SHARE * largest + _NOISE


def without_zeros(values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Give parameters that are all zero small values; the others are the arrays that were given.

    A factor that starts at zero, as LoRA's B does, would hide a wrong gradient of its partner.

    Args:
        values: Trained parameters by name.
    """
    return {
        name: values[name] if values[name].any() else _small(values[name].shape, key)
        for key, name in enumerate(sorted(values))
    }


def _small(shape: tuple[int, ...], key: int) -> NDArray[np.float32]:
    uniform = (_random(math.prod(shape), key, 0) >> np.uint64(40)) / 2.0**24
    return ((uniform - 0.5) * _SPREAD).astype(np.float32).reshape(shape)


def _random(count: int, key: int, stream: int) -> NDArray[np.uint64]:
    return np.random.Philox(key=[key, stream]).random_raw(count).astype("<u8")
