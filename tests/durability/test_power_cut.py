"""A power cut leaves what was brought to the disk, and a run goes on from any such state."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefuse_runtime.training import finetune
from tests.durability import training
from tests.durability.test_kills import assert_same
from tests.tiny_bundle import make_bundle, write_data

Listing = dict[str, int]
"""Number of what has each name in a folder: its inode."""


class Disk:
    """What a disk may hold of a folder after each call that changes it.

    A file has the bytes that it had when it was brought to the disk last; one that never was is
    empty. A folder has the names that it had when it was brought there last, or those that it has
    now: a system may write names at any time, in their order.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, Listing] = {}
        self.states: list[dict[str, bytes]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)
        for name in ("rename", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, call: Callable[..., None]) -> Callable[..., None]:
        """A call that changes names, after which they may be on the disk, and what is in them."""

        def noted(*arguments: Any, **options: Any) -> None:
            call(*arguments, **options)
            if self._folder.exists():
                self._forget_removed()
                self.states.append(dict(self._content(names_in(self._folder))))

        return noted

    def _forget_removed(self) -> None:
        """Forget files that no folder names, or one with the same number would have their bytes."""
        named = {*names_in(self._folder).values()}
        for listing in self._folders.values():
            named |= {*listing.values()}
        self._files = {number: raw for number, raw in self._files.items() if number in named}

    def fsync(self, file: int) -> None:
        """Note what is brought to the disk."""
        self._fsync(file)
        place = Path(f"/proc/self/fd/{file}").resolve()
        number = place.stat().st_ino
        if place.is_dir():
            self._folders[number] = names_in(place)
        else:
            self._files[number] = place.read_bytes()
        self.states.append(dict(self._state()))

    def _state(self) -> Iterator[tuple[str, bytes]]:
        above = self._folders.get(self._folder.parent.stat().st_ino, {})
        yield from self._content(self._folders.get(above.get(self._folder.name, 0), {}))

    def _content(self, names: Listing) -> Iterator[tuple[str, bytes]]:
        for name, number in names.items():
            yield name, self._files.get(number, b"")


def names_in(folder: Path) -> Listing:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_from_whatever_a_power_cut_leaves_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "open_engine", finetune.open_engine)  # which `training` replaces
    make_bundle(tmp_path / "bundle")
    rows = write_data(tmp_path / "train.jsonl", 10)
    with monkeypatch.context() as watched:
        disk = Disk(tmp_path / "whole", watched)
        training.train(tmp_path / "bundle", tmp_path / "whole", rows)
    assert len(disk.states) > 20
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
