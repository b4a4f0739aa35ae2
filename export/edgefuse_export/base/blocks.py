"""Codes and scales of a matrix, block by block, symmetric about zero."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.graph.base import BLOCK, Blocks, Precision, packed

_CHUNK = 4096
"""Blocks that are quantised at a time: what is computed of them stays in the processor's cache."""

_EXTREMES = (-9.0, -8.0, -7.0, 7.0)
"""Codes that a block's largest entry is tried at; those beyond -8 cut it off."""

Floats = NDArray[np.float32]


def quantize(matrix: Floats, precision: Precision) -> Blocks:
    """Quantise a matrix, or a stack of them.

    In 8 bits the largest entry of a block is ±127. In 4 bits, where that would waste a part of the
    16 codes, scales are those of the least squared error among some: from the codes that a scale
    gives, a better scale follows by least squares, and from that the codes (Lloyd, "Least Squares
    Quantization in PCM", IEEE Transactions on Information Theory 28, 1982).

    Args:
        matrix: float32 of shape (…, columns), columns a multiple of `BLOCK`.
        precision: What codes are.
    """
    make: dict[Precision, Callable[[Floats], tuple[Floats, Floats]]]
    make = {"int8": _in_8_bits, "int4": _in_4_bits}
    blocks = np.ascontiguousarray(matrix).reshape(-1, BLOCK)
    codes: NDArray[np.int8] = np.empty(blocks.shape, np.int8)
    scale = np.empty(len(blocks), np.float16)
    for begin in range(0, len(blocks), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        codes[chunk], scale[chunk] = make[precision](blocks[chunk])
    codes = codes.reshape(matrix.shape)
    return Blocks(
        codes=packed(codes) if precision == "int4" else codes,
        scale=scale.reshape(*matrix.shape[:-1], -1),
    )


def _in_8_bits(blocks: Floats) -> tuple[Floats, Floats]:
    scale = _stored(np.abs(blocks).max(1) / np.float32(127))
    return _rounded(blocks, scale, 127, 127), scale


def _in_4_bits(blocks: Floats) -> tuple[Floats, Floats]:
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]
    codes, scale = np.zeros_like(blocks), np.zeros_like(extreme)
    least = np.full_like(extreme, np.inf)
    for code in _EXTREMES:
        found = _rounded(blocks, extreme / np.float32(code), 8, 7)
        squares = np.maximum(_dot(found, found), 1)
        better = _stored(_dot(found, blocks) / squares)
        found = _rounded(blocks, better, 8, 7)
        rest = blocks - found * better[:, None]
        error = _dot(rest, rest)
        wins = error < least
        codes[wins], scale[wins], least[wins] = found[wins], better[wins], error[wins]
    return codes, scale


def _rounded(blocks: Floats, scale: Floats, below: int, above: int) -> Floats:
    """The codes that are nearest to blocks, from -below to above; zero where the scale is zero."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes: Floats = np.clip(np.rint(blocks * inverse[:, None]), -below, above)
    return codes


def _stored(scale: NDArray[Any]) -> Floats:
    """Scales as float16 holds them: codes are made for what is multiplied with them."""
    return scale.astype(np.float16).astype(np.float32)


def _dot(one: Floats, other: Floats) -> Floats:
    product: Floats = np.einsum("ij,ij->i", one, other)
    return product
