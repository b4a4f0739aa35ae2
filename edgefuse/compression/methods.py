"""The methods of compression, in one list."""

from collections.abc import Callable
from dataclasses import dataclass

from edgefuse.compression.kmeans import fuse_by_kmeans
from edgefuse.compression.neurons import FusedNeurons, Neurons
from edgefuse_devices.errors import InputError


@dataclass(frozen=True)
class Method:
    """A way to make a block narrower.

    Attributes:
        name: As given to `--method`.
        paper: Where it comes from.
        fuse: From a block's neurons, a width and a seed to the fused neurons.
    """

    name: str
    paper: str
    fuse: Callable[[Neurons, int, int], FusedNeurons]


METHODS = (
    Method(
        "mlp-fusion",
        "Wei et al., NTK-approximating MLP Fusion for Efficient Language Model Fine-tuning, "
        "ICML 2023, arXiv 2307.08941",
        fuse_by_kmeans,
    ),
)


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: There is none.
    """
    for method in METHODS:
        if method.name == name:
            return method
    known = ", ".join(method.name for method in METHODS)
    raise InputError(f"There is no method {name!r}", f"Choose one of: {known}")
