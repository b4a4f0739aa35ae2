"""Fine-tune language models on small boards."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgefuse_devices import __version__

if TYPE_CHECKING:
    from edgefuse.artifact.compressed import from_pretrained
    from edgefuse.artifact.fold import fold
    from edgefuse.layers.fused import multiplicities

__all__ = ["__version__", "fold", "from_pretrained", "multiplicities"]

_HOMES = {
    "fold": "edgefuse.artifact.fold",
    "from_pretrained": "edgefuse.artifact.compressed",
    "multiplicities": "edgefuse.layers.fused",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when something that needs them is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
