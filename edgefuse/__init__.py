"""Fine-tune language models on small boards.

The workstation's half of EdgeFuse in Python; `edgefuse_runtime` is the board's half. Every command
of the command line is one of these functions (docs/api.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgefuse_devices import __version__
from edgefuse_devices.errors import (
    BundleError,
    DataError,
    DeviceError,
    EdgeFuseError,
    InputError,
    InternalError,
    Interrupted,
    ModelError,
    OutputError,
    RunError,
)

if TYPE_CHECKING:
    from edgefuse.api import compress, export, plan, plan_compression, squeeze
    from edgefuse.artifact.load import from_pretrained
    from edgefuse.layers.stand_ins import fold, multiplicities
    from edgefuse.squeezing.record import SqueezeSettings
    from edgefuse_runtime.optimizers.adafactor import Adafactor
    from edgefuse_runtime.optimizers.adamw import AdamW
    from edgefuse_runtime.optimizers.lion import Lion
    from edgefuse_runtime.optimizers.sgd import Sgd

__all__ = [
    "Adafactor",
    "AdamW",
    "BundleError",
    "DataError",
    "DeviceError",
    "EdgeFuseError",
    "InputError",
    "InternalError",
    "Interrupted",
    "Lion",
    "ModelError",
    "OutputError",
    "RunError",
    "Sgd",
    "SqueezeSettings",
    "__version__",
    "compress",
    "export",
    "fold",
    "from_pretrained",
    "multiplicities",
    "plan",
    "plan_compression",
    "squeeze",
]

_HOMES = {
    "AdamW": "edgefuse_runtime.optimizers.adamw",
    "Adafactor": "edgefuse_runtime.optimizers.adafactor",
    "Lion": "edgefuse_runtime.optimizers.lion",
    "Sgd": "edgefuse_runtime.optimizers.sgd",
    "SqueezeSettings": "edgefuse.squeezing.record",
    "compress": "edgefuse.api",
    "export": "edgefuse.api",
    "fold": "edgefuse.layers.stand_ins",
    "from_pretrained": "edgefuse.artifact.load",
    "multiplicities": "edgefuse.layers.stand_ins",
    "plan": "edgefuse.api",
    "plan_compression": "edgefuse.api",
    "squeeze": "edgefuse.api",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when something that needs them is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
