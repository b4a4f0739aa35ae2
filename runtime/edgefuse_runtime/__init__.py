"""The board's half of EdgeFuse: bundles are trained, evaluated and measured by ONNX Runtime.

Nothing here imports torch. Every command that runs on a board is one of these functions
(docs/api.md).
"""

import os

# Before any import of onnxruntime: its Linux wheels from 1.29 on report usage unless told not to,
# and what is trained on a device is private.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefuse_runtime.api import (
        Predictor,
        bench,
        check,
        convert,
        doctor,
        evaluate,
        finetune,
        open_bundle,
        read_run,
    )
    from edgefuse_runtime.training.run import TrainingSettings

__all__ = [
    "Predictor",
    "TrainingSettings",
    "bench",
    "check",
    "convert",
    "doctor",
    "evaluate",
    "finetune",
    "open_bundle",
    "read_run",
]

_HOMES = {
    "Predictor": "edgefuse_runtime.api",
    "TrainingSettings": "edgefuse_runtime.training.run",
    "bench": "edgefuse_runtime.api",
    "check": "edgefuse_runtime.api",
    "convert": "edgefuse_runtime.api",
    "doctor": "edgefuse_runtime.api",
    "evaluate": "edgefuse_runtime.api",
    "finetune": "edgefuse_runtime.api",
    "open_bundle": "edgefuse_runtime.api",
    "read_run": "edgefuse_runtime.api",
}


def __getattr__(name: str) -> Any:
    """Import a function's libraries only when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
