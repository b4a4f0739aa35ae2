"""From where a run goes on: its newest checkpoint that is whole, and what is done where none is."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgefuse_devices.errors import RunError
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.training.checkpoint import LostCheckpointError, Progress, load_checkpoint
from edgefuse_runtime.training.records import Report
from edgefuse_runtime.training.run import BEST, LAST, PREVIOUS, REPORT, read_json

Say = Callable[[str], None]
"""Takes a sentence about what was lost, and what is done about it."""


def finished(run: Path, *, bundle_id: str, say: Say) -> Report | None:
    """The report of a run that is finished, and whose best checkpoint is whole; None otherwise.

    Args:
        run: The run's directory.
        bundle_id: Identity of its bundle.
        say: Receiver of sentences.
    """
    if not (run / REPORT).exists():
        return None
    try:
        report = read_json(run / REPORT, Report)
    except RunError as error:
        say(f"{error.problem}: it is made again")
        return None
    return report if _best_is_whole(run, bundle_id, say) else None


def newest(run: Path, *, bundle_id: str, say: Say) -> tuple[Tensors, Progress] | None:
    """State and progress of the newest checkpoint that is whole; None to begin again.

    Without the best checkpoint, the best epoch is looked for among those that end from there on.

    Args:
        run: The run's directory.
        bundle_id: Identity of its bundle.
        say: Receiver of sentences.

    Raises:
        RunError: A checkpoint is one of another bundle.
    """
    lost = ""
    for name in (LAST, PREVIOUS):
        try:
            state, progress = load_checkpoint(run / name, bundle_id=bundle_id)
        except LostCheckpointError as error:
            lost = lost or error.problem
            continue
        if lost:
            say(f"{lost}: the run goes on from {name}, after step {progress.step}")
        if progress.best is not None and not _best_is_whole(run, bundle_id, say):
            progress = msgspec.structs.replace(progress, best=None)
        return state, progress
    say(f"{lost}: training begins again")
    return None


def _best_is_whole(run: Path, bundle_id: str, say: Say) -> bool:
    try:
        load_checkpoint(run / BEST, bundle_id=bundle_id)
    except LostCheckpointError as error:
        say(f"{error.problem}: the best epoch is looked for among those that end from now on")
        return False
    return True
