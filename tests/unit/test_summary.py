"""Two numbers tell arrays apart, and are the same wherever they are computed."""

import numpy as np
import pytest

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.checking.batches import CheckedBatch, read_batches, write_batches
from edgefuse_runtime.checking.summary import Summary, floor_of, summarize, without_zeros


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_norm_is_that_of_all_elements_whatever_their_shape_and_strides() -> None:
    matrix = array(1100, 1000)  # more elements than are looked at together
    summary = summarize(matrix, 3)
    assert summary.norm == pytest.approx(np.linalg.norm(matrix.astype(np.float64)))
    assert summarize(np.asfortranarray(matrix), 3) == summary
    assert summarize(matrix.ravel(), 3) == summary
    assert summarize(matrix, 4).projection != summary.projection


def test_a_difference_shows_in_the_projection_at_about_its_size() -> None:
    gradient, ratios = array(64, 64), []
    for seed in range(1, 40):
        difference = 0.05 * array(64, 64, seed=seed)
        changed = summarize(gradient + difference, seed)
        distance = abs(changed.projection - summarize(gradient, seed).projection)
        ratios.append(distance / np.linalg.norm(difference))
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, rel=0.3)


def test_gradients_of_one_norm_in_another_order_are_told_apart() -> None:
    gradient = array(50, 20)
    expected, flipped = summarize(gradient, 0), summarize(gradient[::-1], 0)
    assert flipped.norm == pytest.approx(expected.norm)
    assert expected.difference(flipped, floor=0) > 0.1
    assert expected.difference(summarize(gradient * np.float32(1 + 1e-5), 0), floor=0) < 1e-3


def test_what_is_zero_but_for_rounding_differs_by_little() -> None:
    zero, rounding = summarize(np.zeros(9, np.float32), 0), summarize(1e-9 * array(9), 0)
    assert zero.difference(rounding, floor=floor_of(1.0)) < 1e-3
    assert zero.difference(zero, floor=floor_of(0.0)) == 0
    assert not zero.difference(Summary(float("nan"), 0.0), floor=1) <= 1


def test_only_parameters_that_are_all_zero_get_other_values_and_always_the_same() -> None:
    values = {"a": array(4), "b": np.zeros((40, 50), np.float32), "c": np.zeros(40, np.float32)}
    filled = without_zeros(values)
    assert filled["a"] is values["a"]
    assert filled["b"].shape == (40, 50)
    assert filled["b"].std() == pytest.approx(0.1, rel=0.1)
    assert abs(filled["b"].mean()) < 0.02
    again = without_zeros(dict(reversed(values.items())))
    assert all(np.array_equal(again[name], value) for name, value in filled.items())
    assert not np.array_equal(filled["b"].ravel()[:40], filled["c"])


def test_batches_come_back_as_they_were_written(tmp_path) -> None:
    feeds = {
        "input_ids": np.array([[1, 2, 0]]),
        "mask": np.array([[True, True, False]]),
        "scores": np.array([0.5], np.float32),
    }
    batch = CheckedBatch(
        shape=(1, 3),
        feeds=feeds,
        loss=0.25,
        gradient_norm=3.5,
        outputs={"logits": Summary(1.0, -0.5)},
        gradients={"w": Summary(2.0, 0.1), "b": Summary(0.3, 0.2)},
    )
    write_batches(tmp_path, [batch, batch])
    first, second = read_batches(tmp_path, ["w", "b"], ["logits"])
    with pytest.raises(BundleError, match=r"has the output logits, which .* does not give"):
        read_batches(tmp_path, ["w", "b"], ["embedding"])
    assert (first.loss, first.gradient_norm, first.shape) == (0.25, 3.5, (1, 3))
    assert first.outputs == batch.outputs
    assert second.gradients == batch.gradients
    for name, value in feeds.items():
        assert first.feeds[name].dtype == value.dtype
        assert np.array_equal(second.feeds[name], value)
