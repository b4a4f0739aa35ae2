"""Checkpoints: one safetensors file each, so that no crash can tear tensors from progress.

Each has the SHA-256 of what it holds, so that none can rot unseen.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError

from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.files.replace import remedy
from edgefuse_runtime.files.tensor_file import (
    digest_of,
    map_tensors,
    read_metadata,
    replace_tensors,
)
from edgefuse_runtime.training.care import Strain

_KEY, _DIGEST = "edgefuse", "sha256"


class LostCheckpointError(RunError):
    """A checkpoint that is not there, or is not as it was written."""


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
        strain: What training was to the machine.
    """

    step: int = 0
    evaluations: int = 0
    best: Best | None = None
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_resident: int = 0
    metrics_bytes: int = 0
    strain: Strain = Strain()


class _Record(Struct, frozen=True, kw_only=True):
    bundle_id: str
    progress: Progress


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    progress: Progress,
    *,
    bundle_id: str,
    before: Path | None = None,
) -> None:
    """Write a checkpoint beside `path`, bring it to the disk, and put it in place.

    Args:
        path: The file to make or to replace.
        tensors: The engine's state, or the trained parameters.
        progress: How far the run has come.
        bundle_id: Identity of the bundle that is trained.
        before: Where to put the checkpoint that is replaced; None deletes it.

    Raises:
        OutputError: It cannot be written; what was at `path` is still there.
    """
    about = msgspec.json.encode(_Record(bundle_id=bundle_id, progress=progress)).decode()
    metadata = {_KEY: about, _DIGEST: digest_of(tensors, about)}
    there = path.exists()
    try:
        replace_tensors(path, tensors, metadata, before=before)
    except (OSError, SafetensorError) as error:
        kept = ": the checkpoint before is kept" if there else ""
        raise OutputError(
            f"{path} cannot be written: {error}",
            f"{remedy(error)} and go on with --resume{kept}",
        ) from error


def load_checkpoint(path: Path, *, bundle_id: str) -> tuple[Tensors, Progress]:
    """Map a checkpoint's tensors (read-only views), read its progress, and check every byte.

    Raises:
        LostCheckpointError: It is not there, or is not as it was written.
        RunError: It is one of another bundle.
    """
    again = "Go on with `edgefuse finetune BUNDLE RUN --resume`, which makes it again"
    try:
        metadata = read_metadata(path)
        about = metadata.get(_KEY, "")
        record = msgspec.json.decode(about, type=_Record)
        tensors = map_tensors(path)
    except FileNotFoundError as error:
        raise LostCheckpointError(f"{path} is not there", again) from error
    except OSError as error:
        raise LostCheckpointError(f"{path} cannot be read: {error.strerror}", again) from error
    except (ValueError, RecursionError) as error:
        raise LostCheckpointError(f"{path} is no whole checkpoint: {error}", again) from error
    if metadata.get(_DIGEST) != digest_of(tensors, about):
        raise LostCheckpointError(
            f"{path} has changed since it was written (its SHA-256 is another)", again
        )
    if record.bundle_id != bundle_id:
        raise RunError(
            f"{path} is a checkpoint of another bundle ({record.bundle_id[:12]}…, "
            f"this one is {bundle_id[:12]}…)",
            "Use the bundle that the run was made with",
        )
    return tensors, record.progress
