"""Matrices in few bits: codes, scales, and how far they are from the floats."""

import numpy as np
import pytest

from edgefuse_export.base.blocks import quantize
from edgefuse_runtime.graph.base import (
    BLOCK,
    Blocks,
    Precision,
    codes_of,
    in_floats,
    packed,
    rows_of,
    scale_of,
    tensor_or_rows,
    unpacked,
    whole_of,
)

PRECISIONS: tuple[Precision, ...] = ("int8", "int4")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def relative(made: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


def test_every_pair_of_int4_codes_is_unpacked_as_it_was_packed() -> None:
    codes = np.stack(np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)), -1).astype(np.int8)
    halves = packed(codes)
    assert halves.shape == (16, 16, 1)
    assert halves.dtype == np.uint8
    first, second = (codes[3, 5] & 0x0F).tolist()
    assert halves[3, 5, 0] == first + 16 * second  # as ONNX has it: the first in the lower half
    np.testing.assert_array_equal(unpacked(halves), codes)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(40, 64), (3, 32, 96)])
def test_what_codes_and_scales_stand_for_is_quantised_to_the_same_again(
    precision: Precision, shape: tuple[int, ...]
) -> None:
    blocks = quantize(normal(*shape), precision)
    assert blocks.precision == precision
    assert blocks.scale.shape == (*shape[:-1], shape[-1] // BLOCK)
    assert blocks.scale.dtype == np.float16
    assert blocks.codes.nbytes == np.prod(shape) * (1 if precision == "int8" else 0.5)
    floats = blocks.floats()
    assert floats.dtype == np.float32
    assert floats.shape == shape
    np.testing.assert_allclose(quantize(floats, precision).floats(), floats, rtol=2e-3)


def test_8_bits_are_within_half_a_step_of_every_float() -> None:
    matrix = normal(64, 128)
    blocks = quantize(matrix, "int8")
    steps = np.repeat(blocks.scale.astype(np.float32), BLOCK, -1)
    largest = np.abs(matrix.reshape(64, -1, BLOCK)).max(-1).repeat(BLOCK, -1)
    # The scale itself is rounded to float16, which the largest entry feels most.
    assert (np.abs(blocks.floats() - matrix) <= 0.5 * steps + 2**-11 * largest).all()


def test_scales_of_least_squares_beat_those_that_hold_the_largest_entry() -> None:
    matrix = normal(256, 256)
    groups = matrix.reshape(-1, BLOCK)
    scale = np.abs(groups).max(1, keepdims=True) / 7
    plain = (np.rint(groups / scale) * scale).reshape(matrix.shape)
    assert relative(quantize(matrix, "int4").floats(), matrix) < 0.87 * relative(plain, matrix)
    assert relative(quantize(matrix, "int8").floats(), matrix) < 0.006


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_stay_zero_and_a_block_knows_nothing_of_another(precision: Precision) -> None:
    matrix = normal(2, 2 * BLOCK)
    matrix[0, :BLOCK] = 0
    matrix[1, BLOCK:] *= 1e6
    floats = quantize(matrix, precision).floats()
    assert not floats[0, :BLOCK].any()
    alone = quantize(np.ascontiguousarray(matrix[1:, :BLOCK]), precision).floats()
    np.testing.assert_array_equal(floats[1:, :BLOCK], alone)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_holds_codes_and_scales_and_gives_floats(precision: Precision) -> None:
    blocks, bias = quantize(normal(32, 64), precision), normal(32)
    tensors = {**blocks.named("layer.weight"), "layer.bias": bias, "old.scale": bias}
    assert tensors.keys() - {"layer.bias", "old.scale"} == {
        codes_of("layer.weight"),
        scale_of("layer.weight"),
    }
    floats = in_floats(tensors)
    assert floats.keys() == {"layer.weight", "layer.bias", "old.scale"}
    np.testing.assert_array_equal(floats["layer.weight"], blocks.floats())
    assert floats["layer.bias"] is bias


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_have_names_of_their_own(precision: Precision) -> None:
    blocks = quantize(normal(40, 64), precision)
    tensors = blocks.named("layer.0.weight")
    rows = rows_of("layer.0.weight", 8, 24)
    assert whole_of(codes_of(rows)) == codes_of("layer.0.weight")
    assert whole_of("layer.0.weight") == "layer.0.weight"
    codes, scale = (tensor_or_rows(tensors, name(rows)) for name in (codes_of, scale_of))
    assert codes is not None
    assert scale is not None
    assert np.shares_memory(codes, blocks.codes)
    np.testing.assert_array_equal(Blocks(codes, scale).floats(), blocks.floats()[8:24])
    assert tensor_or_rows(tensors, codes_of(rows_of("layer.1.weight", 8, 24))) is None
    assert tensor_or_rows(tensors, "layer.0.weight") is None
