"""Child-Tuning: gradients of which only a part counts, drawn anew at every step or chosen once.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable
Fine-tuning", EMNLP 2021, arXiv 2109.05687: child-F and child-D.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.bundle.manifest import FixedMask, RandomMask
from edgefuse_runtime.files.tensor_file import map_tensors

MASKS = "masks.safetensors"
_STEPS = 1 << 16
"""Of the random numbers that an entry is kept by."""

Gradients = Sequence[NDArray[np.float32]]


class GradientMask(Protocol):
    """What is done to gradients between the graph and the optimizer."""

    def apply(self, step: int) -> None:
        """Mask the gradients of a step, in place; the same step gives the same mask."""
        ...


def open_gradient_mask(
    bundle: Bundle, gradients: Mapping[str, NDArray[np.float32]], *, seed: int
) -> GradientMask | None:
    """The mask that a bundle trains with, or None.

    Args:
        bundle: An opened bundle.
        gradients: Of every parameter, by its name: memory that `apply` writes to.
        seed: Of a mask that is drawn.
    """
    match bundle.manifest.gradient_mask:
        case RandomMask() as mask:
            return _Drawn([gradients[name] for name in mask.parameters], mask.keep, seed)
        case FixedMask() as mask:
            bits = map_tensors(bundle.path / MASKS)
            return _Chosen([(gradients[name], bits[name]) for name in mask.parameters])
        case None:
            return None


class _Drawn:
    """Each entry is kept with probability q, and divided by q (equation 7)."""

    def __init__(self, gradients: Gradients, keep: float, seed: int) -> None:
        self._gradients = gradients
        self._limit = max(1, round(keep * _STEPS))
        self._seed = seed

    def apply(self, step: int) -> None:
        # A counter-based generator: step n needs no state of the steps before.
        bits = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        scale = np.float32(_STEPS / self._limit)
        for gradient in self._gradients:
            drawn = bits.integers(_STEPS, size=gradient.shape, dtype=np.uint16)
            np.multiply(gradient, (drawn < self._limit) * scale, out=gradient)


class _Chosen:
    """The entries that a bit is set for are kept, at every step."""

    def __init__(self, masked: Sequence[tuple[NDArray[np.float32], NDArray[Any]]]) -> None:
        self._masked = masked

    def apply(self, step: int) -> None:  # noqa: ARG002 - all steps are alike
        for gradient, bits in self._masked:
            mask = np.unpackbits(bits, count=gradient.size).reshape(gradient.shape)
            np.multiply(gradient, mask, out=gradient)
