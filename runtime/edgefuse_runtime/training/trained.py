"""Where weights come from: a run's best epoch, or a bundle as it was exported."""

from pathlib import Path

from edgefuse_devices.errors import RunError
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.training.checkpoint import load_checkpoint
from edgefuse_runtime.training.run import BEST, REPORT, is_run, open_run_bundle, read_record


def open_trained(path: Path, *, bundle: Path | None = None) -> tuple[Bundle, Tensors]:
    """Open a run or a bundle.

    Args:
        path: A run, whose best checkpoint is taken, or a bundle, as it stands before training.
        bundle: Place of the run's bundle, when it is not where it was.

    Returns:
        The bundle, and the trained parameters by name as read-only views.

    Raises:
        BundleError: The bundle is not whole, or the path is neither.
        RunError: The run has no best checkpoint, it has changed since it was written, or its bundle
            is not there.
    """
    if is_run(path):
        opened = open_run_bundle(path, read_record(path), bundle)
        if not any((path / name).exists() for name in (BEST, REPORT)):
            raise RunError(
                f"{path / BEST} is not there: no epoch of the run has ended yet",
                "Go on with `edgefuse finetune BUNDLE RUN --resume`",
            )
        tensors, _ = load_checkpoint(path / BEST, bundle_id=opened.id)
        return opened, tensors
    opened = open_bundle(path)
    return opened, map_tensors(path / "trainable.safetensors")
