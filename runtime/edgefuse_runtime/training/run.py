"""A run: the directory that fine-tuning fills, and its record.

run.json              bundle, data and settings, written first
metrics.jsonl         a line per step and per evaluation
last.safetensors      the checkpoint that --resume goes on from
previous.safetensors  the one before it, for when that is lost
best.safetensors      the trained parameters of the best epoch
report.json           written last

All of it is its owner's alone.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.bundle.bundle import MANIFEST, Bundle, digest, open_bundle
from edgefuse_runtime.files.folder_kinds import kind_of
from edgefuse_runtime.files.regular import regular
from edgefuse_runtime.files.replace import beside_of, sync, write_json

RECORD, METRICS, REPORT = "run.json", "metrics.jsonl", "report.json"
LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"

FILES = (RECORD, METRICS, LAST, PREVIOUS, BEST, REPORT)
"""Names of all that a run may have."""

_BESIDE = {beside_of(Path(name)).name for name in FILES}
_SAFETENSORS_OWN = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors calls a file that it has not written to its end."""

_T = TypeVar("_T")
_PRIVATE = 0o700


class TrainingSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to train.

    Attributes:
        epochs: Passes over the training data.
        learning_rate: Peak of the learning rate; None takes that of the bundle's way of tuning.
        warmup_ratio: Share of the steps in which the learning rate rises.
        batch_size: Rows in a batch; None takes the bundle's.
        gradient_accumulation_steps: Batches in a step, whose gradients are added up.
        seed: Seed of the shuffling, and of what is drawn at every step.
        save_every: Steps between checkpoints; every epoch ends with one besides.
        threads: Threads to compute with; None takes the board's recommendation.
        rows_at_once: Rows whose gradients are computed at once, as memory allows; None for what a
            budget of memory allows.
        kept_layers: Layers whose insides are kept for the backward pass, where they could be
            computed anew; None for what the budget allows.

    Raises:
        RunError: A value is out of its range.
    """

    epochs: int = 3
    learning_rate: float | None = None
    warmup_ratio: float = 0.1
    batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    seed: int = 0
    save_every: int = 200
    threads: int | None = None
    rows_at_once: int | None = None
    kept_layers: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (
            "epochs",
            "learning_rate",
            "batch_size",
            "gradient_accumulation_steps",
            "save_every",
            "threads",
            "rows_at_once",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RunError(f"{name} is {value}", "It must be above 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise RunError(f"warmup_ratio is {self.warmup_ratio}", "It must be from 0 to 1")
        if not 0 <= self.seed < 1 << 63:
            raise RunError(f"seed is {self.seed}", "It must be from 0 to 2⁶³ - 1")


class DataFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A data file as it was when the run began.

    Attributes:
        path: Absolute path.
        sha256: Lower-case hexadecimal digest.
    """

    path: str
    sha256: str


class Change(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run went on with that it did not begin with.

    Attributes:
        step: Count of steps done before.
        learning_rate: Peak of the learning rate from then on.
    """

    step: int
    learning_rate: float


class RunRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run was made from.

    Attributes:
        bundle_path: Absolute path of the bundle.
        bundle_relative_path: Path of the bundle from the run's directory, for when both are moved
            together.
        bundle_id: Identity of the bundle.
        train: Training data.
        valid: Validation data.
        settings: Settings, with what they leave open filled in.
        edgefuse_version: Version of the EdgeFuse that began the run.
        changes: What was changed when the run went on, the first change first.
    """

    bundle_path: str
    bundle_relative_path: str
    bundle_id: str
    train: DataFile
    valid: DataFile | None
    settings: TrainingSettings
    edgefuse_version: str
    changes: list[Change] = []

    @property
    def learning_rate(self) -> float | None:
        """Peak of the learning rate now."""
        return self.changes[-1].learning_rate if self.changes else self.settings.learning_rate


def describe_data(path: Path) -> DataFile:
    """Path and digest of a data file that is there."""
    return DataFile(path=str(path.absolute()), sha256=digest(path))


def read_record(run: Path) -> RunRecord:
    """Read run.json.

    Raises:
        RunError: The directory is no run, or its record is broken.
    """
    return read_json(run / RECORD, RunRecord)


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / RECORD).is_file()


def check_free(run: Path, *, overwrite: bool) -> None:
    """Check that a run may begin in a directory.

    Args:
        run: The directory; it may exist when it is empty.
        overwrite: Whether the directory may hold an earlier run.

    Raises:
        OutputError: It is a file, or is not empty.
    """
    if run.exists() and not run.is_dir():
        raise OutputError(f"{run} is a file", "Name a folder that is not there yet")
    try:
        found = {path.name for path in run.iterdir()} if run.is_dir() else set()
    except OSError as error:
        raise OutputError(
            f"{run} cannot be read: {error.strerror}", "Choose another folder"
        ) from error
    files = {name for name in found if not is_leftover(name)}
    if not files:
        return
    if not files <= {*FILES} and not is_run(run):
        raise OutputError(
            f"{run} is not empty, and holds {kind_of(run) or 'other files'}, no run",
            "Name another folder",
        )
    if not overwrite:
        what = "a run already" if is_run(run) else f"what is left of a run without its {RECORD}"
        go_on = "Go on with it with --resume, replace" if is_run(run) else "Replace"
        raise OutputError(
            f"{run} holds {what}", f"{go_on} it with --overwrite, or name another folder"
        )


def is_leftover(name: str) -> bool:
    """Whether a file is one that a process had begun to write when it was killed."""
    return name in _BESIDE or _SAFETENSORS_OWN.fullmatch(name) is not None


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Make the directory, and keep other processes from training in it, for as long as this lives.

    What a process left there that was killed while it wrote is removed.

    Raises:
        OutputError: The directory cannot be made.
        RunError: Another process is training in it.
    """
    try:
        new = [folder for folder in (run, *run.parents) if not folder.exists()]
        run.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        for folder in new:  # or a power cut takes the run with the name of its folder
            sync(folder.parent)
        directory = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(
            f"{run} cannot be made: {error.strerror}", "Choose another folder"
        ) from error
    try:
        _lock(directory, run)
        _remove_leftovers(run)
        yield
    finally:
        os.close(directory)


def _lock(directory: int, run: Path) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"another process is training in {run}", "Let it end, or stop it first"
        ) from error
    except OSError:
        pass  # a file system without locks


def _remove_leftovers(run: Path) -> None:
    for path in run.iterdir():
        if is_leftover(path.name):
            with suppress(OSError):  # whatever else has that name
                path.unlink()


def begin_run(run: Path, record: RunRecord) -> None:
    """Remove the files of an earlier run from the directory, and write run.json.

    Raises:
        OutputError: The directory cannot be written.
    """
    try:
        for name in (REPORT, BEST, PREVIOUS, LAST, METRICS):
            (run / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{run / name} cannot be replaced: {error.strerror}", "Choose another folder"
        ) from error
    write_record(run, record)


def write_record(run: Path, record: RunRecord) -> None:
    """Write run.json.

    Raises:
        OutputError: The directory cannot be written.
    """
    try:
        write_json(run / RECORD, record, private=True)
    except OSError as error:
        raise OutputError(
            f"{run} cannot be written: {error.strerror}", "Choose another folder"
        ) from error


def next_rate(stored: RunRecord, asked: float | None) -> float:
    """Peak of the learning rate that a run goes on with.

    Args:
        stored: What the run was made from.
        asked: What it is to be; that of the beginning changes nothing.

    Raises:
        RunError: It is higher than it is now.
    """
    now = stored.learning_rate
    assert now is not None
    if asked is None or asked in (now, stored.settings.learning_rate):
        return now
    if asked > now:
        raise RunError(
            f"the run's learning rate is {now:g}, and a run goes on with a lower one only",
            "Give a lower --learning-rate, or start another run",
        )
    return asked


def check_same(stored: RunRecord, now: RunRecord) -> None:
    """Check that a run would go on from what it was made from.

    Raises:
        RunError: Bundle, data or settings are others; the message names them.
    """
    again = "Give what the run began with, or start another run"
    if stored.bundle_id != now.bundle_id:
        raise RunError(
            f"the run was made with another bundle ({stored.bundle_path}, "
            f"{stored.bundle_id[:12]}…, this one is {now.bundle_id[:12]}…)",
            again,
        )
    for name in ("train", "valid"):
        before, after = getattr(stored, name), getattr(now, name)
        if (before and before.sha256) != (after and after.sha256):
            was = f"was {before.path}" if before else "had none"
            raise RunError(f"the run's {name} data is not the same: it {was}", again)
    for name in TrainingSettings.__struct_fields__:
        before, after = getattr(stored.settings, name), getattr(now.settings, name)
        if before != after:
            raise RunError(f"the run began with {name} {before}, not {after}", again)


def open_run_bundle(run: Path, record: RunRecord, given: Path | None = None) -> Bundle:
    """Find and open the bundle that a run was made with.

    Args:
        run: The run's directory.
        record: The run's record.
        given: Place of the bundle that the user names.

    Raises:
        RunError: It is not at the recorded place, or is another bundle.
        BundleError: It is there and not whole.
    """
    places = [given] if given else [Path(record.bundle_path), run / record.bundle_relative_path]
    there = [place for place in places if (place / MANIFEST).is_file()]
    if not there and not given:
        raise RunError(
            f"the bundle of {run} is not at {places[0]} any more", "Say where it is with --bundle"
        )
    for place in there or places:
        bundle = open_bundle(place)
        if bundle.id == record.bundle_id:
            return bundle
    raise RunError(
        f"{bundle.path} is not the bundle that {run} was made with",
        "Say where that one is with --bundle",
    )


def relative_to_run(bundle: Path, run: Path) -> str:
    """The bundle's path from the run's directory."""
    return os.path.relpath(bundle.absolute(), run.absolute())


def read_json(path: Path, kind: type[_T]) -> _T:
    """Read a struct from JSON.

    Raises:
        RunError: The file is not there, or is broken.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            return msgspec.json.decode(file.read(), type=kind)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{path.parent} is no run: it has no {path.name}",
            "Make one with `edgefuse finetune BUNDLE RUN --train train.jsonl`",
        ) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}", "Start another run") from error
    except (ValueError, RecursionError) as error:  # msgspec's, or that of bytes that are not UTF-8
        raise RunError(f"{path} cannot be read: {error}", "Start another run") from error
