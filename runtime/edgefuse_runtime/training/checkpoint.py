"""Checkpoints: one safetensors file each, so that no crash can tear tensors from progress."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError

from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.files.tensor_file import map_tensors, read_metadata, replace_tensors

_KEY = "edgefuse"


class Best(Struct, frozen=True, kw_only=True):
    """The evaluation that the best checkpoint had.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Count of steps done by then.
        figures: The task's figures; none where there is no validation data, and the last epoch is
            the best.
    """

    epoch: int
    step: int
    figures: dict[str, float] = {}


class Progress(Struct, frozen=True, kw_only=True):
    """How far a run has come; with the engine's state, all that it takes to go on.

    Attributes:
        step: Count of steps done.
        evaluations: Count of epochs whose evaluation is done.
        best: The best of them.
        rows: Count of rows trained on.
        tokens: Count of tokens trained on, padding not counted.
        seconds: Time in steps.
        peak_resident: Bytes, the most that a process of the run ever held.
        metrics_bytes: Length of metrics.jsonl.
    """

    step: int = 0
    evaluations: int = 0
    best: Best | None = None
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_resident: int = 0
    metrics_bytes: int = 0


class _Record(Struct, frozen=True, kw_only=True):
    bundle_id: str
    progress: Progress


def save_checkpoint(
    path: Path, tensors: Mapping[str, np.ndarray], progress: Progress, *, bundle_id: str
) -> None:
    """Write a checkpoint beside `path`, bring it to the disk, and put it in place.

    Raises:
        OutputError: It cannot be written; what was at `path` is still there.
    """
    record = _Record(bundle_id=bundle_id, progress=progress)
    try:
        replace_tensors(path, tensors, {_KEY: msgspec.json.encode(record).decode()})
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path} cannot be written: {error}",
            "Make room on the disk and go on with --resume: the checkpoint before is kept",
        ) from error


def load_checkpoint(path: Path, *, bundle_id: str) -> tuple[Tensors, Progress]:
    """Map a checkpoint's tensors (read-only views) and read its progress.

    Raises:
        RunError: It is not there, is no whole checkpoint, or is one of another bundle.
    """
    if not path.is_file():
        raise RunError(
            f"{path} is not there: no epoch of the run has ended yet",
            "Go on with `edgefuse finetune BUNDLE RUN --resume`",
        )
    try:
        record = msgspec.json.decode(read_metadata(path).get(_KEY, ""), type=_Record)
        tensors = map_tensors(path)
    except (ValueError, KeyError) as error:
        raise RunError(
            f"{path} is no whole checkpoint: {error}", "Copy the run again, or train anew"
        ) from error
    if record.bundle_id != bundle_id:
        raise RunError(
            f"{path} is a checkpoint of another bundle ({record.bundle_id[:12]}…, "
            f"this one is {bundle_id[:12]}…)",
            "Use the bundle that the run was made with",
        )
    return tensors, record.progress
