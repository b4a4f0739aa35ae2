"""Fine-tune language models on small boards."""

from edgefuse_devices import __version__

__all__ = ["__version__"]
