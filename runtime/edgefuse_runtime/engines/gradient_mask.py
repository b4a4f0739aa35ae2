"""Child-Tuning: gradients of which only a part counts, drawn anew at every step or chosen once.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable
Fine-tuning", EMNLP 2021, arXiv 2109.05687: child-F and child-D.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.masks import FixedMask, RandomMask
from edgefuse_runtime.graph.masks import GradientMask as MaskSpec

MASKS = "masks.safetensors"
_STEPS = 1 << 16
"""Values of the random numbers by which an entry is kept."""

Gradients = Sequence[NDArray[np.float32]]


class GradientMask(Protocol):
    """What is done to gradients between the graph and the optimizer."""

    def apply(self, step: int) -> None:
        """Mask the gradients of a step, in place; the same step gives the same mask."""
        ...


def open_gradient_mask(
    spec: MaskSpec | None, gradients: Mapping[str, NDArray[np.float32]], *, folder: Path, seed: int
) -> GradientMask | None:
    """The mask that a bundle trains with, or None.

    Args:
        spec: The manifest's description of the mask.
        gradients: Gradient of every parameter, by its name: memory that `apply` writes to.
        folder: The bundle's directory.
        seed: Seed of a mask that is drawn.
    """
    match spec:
        case RandomMask():
            return _Drawn([gradients[name] for name in spec.parameters], spec.keep, seed)
        case FixedMask():
            bits = map_tensors(folder / MASKS)
            return _Chosen([(gradients[name], bits[name]) for name in spec.parameters])
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
