"""A power cut leaves what was brought to the disk, and a run goes on from any such state."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefuse_runtime.training import finetune
from tests.durability import training
from tests.durability.test_kills import assert_same
from tests.tiny_bundle import make_bundle, write_data

Listing = dict[str, int]
"""Number of what has each name in a folder: its inode."""


class Disk:
    """What a disk holds of a folder after each fsync, at the least.

    A file has the bytes that it had when it was brought to the disk last, and a folder the names
    that it had then; a name of a file that never was is that of an empty one.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, Listing] = {}
        self.states: list[dict[str, bytes]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, file: int) -> None:
        """Note what is brought to the disk."""
        self._fsync(file)
        place = Path(f"/proc/self/fd/{file}").resolve()
        number = place.stat().st_ino
        if place.is_dir():
            self._folders[number] = {path.name: path.stat().st_ino for path in place.iterdir()}
        else:
            self._files[number] = place.read_bytes()
        self.states.append(dict(self._state()))

    def _state(self) -> Iterator[tuple[str, bytes]]:
        above = self._folders.get(self._folder.parent.stat().st_ino, {})
        run = self._folders.get(above.get(self._folder.name, 0), {})
        for name, number in run.items():
            yield name, self._files.get(number, b"")


def test_from_whatever_a_power_cut_leaves_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "open_engine", finetune.open_engine)  # which `training` replaces
    make_bundle(tmp_path / "bundle")
    rows = write_data(tmp_path / "train.jsonl", 10)
    with monkeypatch.context() as watched:
        disk = Disk(tmp_path / "whole", watched)
        training.train(tmp_path / "bundle", tmp_path / "whole", rows)
    assert len(disk.states) > 10
    assert "run.json" in disk.states[2], "the name of the folder itself is not brought to the disk"
    assert {*disk.states[-1]} == {path.name for path in (tmp_path / "whole").iterdir()}
    for state in disk.states:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        if state:
            run.mkdir()
        for name, content in state.items():
            (run / name).write_bytes(content)
        training.train(tmp_path / "bundle", run, rows)
        assert_same(tmp_path, run)
