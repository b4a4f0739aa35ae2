"""Fine-tune language models on small boards."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgefuse_devices import __version__

if TYPE_CHECKING:
    from edgefuse.compression.fused_linear import multiplicities
    from edgefuse.models.compressed import from_pretrained
    from edgefuse.models.fold import fold

__all__ = ["__version__", "fold", "from_pretrained", "multiplicities"]

_HOMES = {
    "fold": "edgefuse.models.fold",
    "from_pretrained": "edgefuse.models.compressed",
    "multiplicities": "edgefuse.compression.fused_linear",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers only when something that needs them is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
