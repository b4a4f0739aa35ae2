"""What frozen layers give for a row is computed once, and kept out of everybody's sight."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.data.batching import Feeds, pad
from edgefuse_runtime.engines.onnxruntime_layers import OnnxRuntimeLayers
from edgefuse_runtime.engines.row_cache import RowCache
from edgefuse_runtime.training.finetune import _row_cache, finetune
from edgefuse_runtime.training.run import TrainingSettings
from tests.tiny_bundle import make_bundle, write_data

KEEPS = OnnxRuntimeLayers(
    version="0", layers=[], lowest=0, by_token=False, kept=[], keeps_rows=True
)
NAMES = ("input_ids", "attention_mask")
ROWS = ([5, 6, 7], [8], [9, 10])
WIDTH = 4
ROW_BYTES = 4 * WIDTH
"""Of a token."""


class Frozen:
    """Layers that count what they compute."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, feeds: Feeds) -> NDArray[np.float32]:
        assert {*feeds} >= {*NAMES}
        self.rows += len(feeds["input_ids"])
        sums = (feeds["input_ids"] * feeds["attention_mask"]).cumsum(axis=1)
        return (sums[..., None] * np.arange(1, WIDTH + 1)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RowCache]:
    with RowCache(tmp_path, budget=10**6) as opened:
        yield opened


def batch(*rows: list[int]) -> Feeds:
    ids, mask = pad([np.array(row) for row in rows], 1)
    return {"input_ids": ids, "attention_mask": mask, "labels": np.zeros(len(rows), np.int64)}


def assert_same_but_for_padding(found: NDArray[np.float32], feeds: Feeds) -> None:
    real = feeds["attention_mask"].astype(bool)
    np.testing.assert_array_equal(found[real], Frozen()(feeds)[real])


def test_every_row_is_computed_once_whatever_batch_it_comes_in(cache):
    frozen = Frozen()
    for rows in (ROWS[:2], (ROWS[2], ROWS[0]), (ROWS[1], ROWS[2]), ROWS):
        feeds = batch(*rows)
        assert_same_but_for_padding(cache.through(feeds, NAMES, frozen), feeds)
    assert frozen.rows == len(ROWS)
    assert cache.bytes == sum(map(len, ROWS)) * ROW_BYTES


def test_a_row_is_all_that_the_layers_are_given_of_it(cache):
    frozen = Frozen()
    feeds = batch([5, 6], [5, 7])
    types = np.array([[0, 0], [0, 1]])
    names = (*NAMES, "token_type_ids")
    for given in ({**feeds, "token_type_ids": types}, {**feeds, "token_type_ids": types * 2}):
        cache.through(given, names, frozen)
    assert frozen.rows == 3  # the first row is the same both times
    assert_same_but_for_padding(cache.through({**feeds, "labels": 1}, names[:2], frozen), feeds)


def test_what_finds_no_place_is_computed_every_time(tmp_path):
    frozen, feeds = Frozen(), batch(*ROWS)
    with RowCache(tmp_path, budget=4 * ROW_BYTES) as cache:
        for _ in range(3):
            assert_same_but_for_padding(cache.through(feeds, NAMES, frozen), feeds)
    assert cache.bytes == 4 * ROW_BYTES  # of the first row and the second
    assert frozen.rows == len(ROWS) + 2


def test_nobody_finds_the_file(cache, tmp_path):
    cache.through(batch(*ROWS), NAMES, Frozen())
    assert cache.bytes
    assert [*tmp_path.iterdir()] == []


class Disk:
    """A file on a disk that does no more."""

    def __init__(self, file: Any, *, written: int = 0, error: int = 0) -> None:
        self._file, self._written, self._error = file, written, error

    def seek(self, place: int) -> None:
        self._file.seek(place)

    def write(self, _: bytes) -> int:
        return self._written or self.read(0)

    def read(self, _: int) -> int:
        raise OSError(self._error, os.strerror(self._error))


@pytest.mark.parametrize("trouble", [{"written": 3}, {"error": errno.ENOSPC}])
def test_a_disk_that_is_full_ends_the_keeping_and_nothing_else(cache, monkeypatch, trouble):
    frozen = Frozen()
    cache.through(batch(ROWS[0]), NAMES, frozen)
    whole = cache._file
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_file", Disk(whole, **trouble))
        feeds = batch(ROWS[1])
        assert_same_but_for_padding(cache.through(feeds, NAMES, frozen), feeds)
    feeds = batch(*ROWS)
    for _ in range(2):
        assert_same_but_for_padding(cache.through(feeds, NAMES, frozen), feeds)
    assert cache.bytes == len(ROWS[0]) * ROW_BYTES
    assert frozen.rows == 1 + 1 + 2 + 2


def test_a_disk_that_is_broken_is_named(cache, monkeypatch, tmp_path):
    cache.through(batch(ROWS[0]), NAMES, Frozen())
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_file", Disk(cache._file, error=errno.EIO))
        for rows, what in ((ROWS[:1], "read"), (ROWS[1:], "written")):
            with pytest.raises(OutputError, match=f"{tmp_path} cannot be {what}") as raised:
                cache.through(batch(*rows), NAMES, Frozen())
            assert "--cache 0" in str(raised.value.hint)


def test_a_folder_that_cannot_be_written_is_named(cache, monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        cache.through(batch(*ROWS), NAMES, Frozen())


def test_more_disk_than_there_is_is_refused_before_training(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    train = write_data(tmp_path / "train.jsonl", 4)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, engine=KEEPS)
    with pytest.raises(OutputError, match="--cache 1,152,921,504,607 MB is more than"):
        finetune(bundle, tmp_path / "run", train=train, cache=2**60)
    assert not (tmp_path / "run").exists()


def test_disk_for_nothing_is_not_asked_for(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    settings = TrainingSettings()
    assert not bundle.manifest.engine.keeps_rows
    assert _row_cache(bundle, tmp_path, settings, 2**60, needed=0) is None
    bundle.manifest = msgspec.structs.replace(bundle.manifest, engine=KEEPS)
    once = TrainingSettings(epochs=1)
    assert _row_cache(bundle, tmp_path, once, 2**60, needed=0) is None
    assert _row_cache(bundle, tmp_path, settings, 0, needed=0) is None
    assert _row_cache(bundle, tmp_path, settings, None, needed=0) is not None
