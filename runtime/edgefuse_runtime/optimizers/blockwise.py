"""AdamW in blocks that stay in a core's cache, updated in place."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.bundle.manifest import AdamW
from edgefuse_runtime.session import open_session

BLOCK = 32_768
"""Elements in a block: 128 KiB a tensor. An AdamW step is a dozen passes over them, which a full
tensor would make through main memory."""

_BLOCKS_A_RUN = 16
"""Enough that calling onnxruntime costs nothing next to its work."""


class Stretch(NamedTuple):
    """Elements that follow one another and are treated alike.

    Attributes:
        start: Of the first.
        stop: Behind the last.
        decay: They get weight decay.
        rate: What the learning rate is multiplied by.
    """

    start: int
    stop: int
    decay: bool
    rate: float


class BlockwiseAdamW:
    """Runs optimizer.onnx over flat buffers, its outputs bound to its inputs' memory.

    Attributes:
        first_moments: Of the shape of the values; m / (1 − β1), as the graph keeps it.
        second_moments: Likewise; v / (1 − β2).
        steps: Done so far.
        shrinkage: Product of (1 − learning rate · weight decay) over the steps, for a rate of 1.
    """

    def __init__(
        self,
        graph: Path,
        settings: AdamW,
        values: NDArray[np.float32],
        gradients: NDArray[np.float32],
        *,
        stretches: Sequence[Stretch],
        threads: int,
    ) -> None:
        """Bind the blocks.

        Args:
            graph: optimizer.onnx.
            settings: Of AdamW.
            values: Every trained element, flat.
            gradients: Of the same shape.
            stretches: Of the values, all of them.
            threads: Blocks worked on at a time.
        """
        self._settings = settings
        self.first_moments = np.zeros_like(values)
        self.second_moments = np.zeros_like(values)
        self.steps = 0
        self.shrinkage = 1.0
        self._scalars = {name: np.ones((), np.float32) for name in ("gradient_scale", "eps")}
        self._stretches = [
            (stretch, {name: np.ones((), np.float32) for name in ("step_size", "shrinkage")})
            for stretch in stretches
        ]
        session = open_session(graph, threads=1)
        tensors = {
            "parameter": values,
            "gradient": gradients,
            "first_moment": self.first_moments,
            "second_moment": self.second_moments,
        }
        self._blocks: list[Callable[[], None]] = []
        for stretch, own in self._stretches:
            scalars = self._scalars | own
            for part, shape in _runs(stretch.start, stretch.stop):
                binding = session.io_binding()
                blocks = {name: tensor[part].reshape(shape) for name, tensor in tensors.items()}
                for name, array in {**blocks, **scalars}.items():
                    bound = ("cpu", 0, np.float32, array.shape, array.ctypes.data)
                    binding.bind_input(name, *bound)
                    if name in tensors and name != "gradient":
                        binding.bind_output(f"new_{name}", *bound)
                self._blocks.append(partial(session.run_with_iobinding, binding))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def step(self, learning_rate: float, gradient_norm: float) -> None:
        """Update every value by its gradient.

        Args:
            learning_rate: Of this step.
            gradient_norm: Global norm of the gradients, for clipping.
        """
        settings = self._settings
        self.steps += 1
        correction = np.sqrt((1 - settings.beta2) / (1 - settings.beta2**self.steps))
        average = (1 - settings.beta1) / (1 - settings.beta1**self.steps)
        limit = settings.max_gradient_norm
        scale = min(1.0, limit / (gradient_norm + 1e-6)) if limit else 1.0
        self._scalars["gradient_scale"][...] = scale
        self._scalars["eps"][...] = settings.eps / correction
        for stretch, own in self._stretches:
            rate = learning_rate * stretch.rate
            own["step_size"][...] = rate * average / correction
            own["shrinkage"][...] = 1 - rate * settings.weight_decay if stretch.decay else 1
        # What the graph multiplies by.
        self.shrinkage *= float(np.float32(1 - learning_rate * settings.weight_decay))
        if self._pool is None:
            for run in self._blocks:
                run()
        else:
            for _ in self._pool.map(lambda run: run(), self._blocks):
                pass


def _runs(start: int, stop: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Cut a stretch into whole blocks, many a run, and a rest; each as (blocks, elements)."""
    whole = stop - (stop - start) % BLOCK
    for begin in range(start, whole, BLOCK * _BLOCKS_A_RUN):
        end = min(begin + BLOCK * _BLOCKS_A_RUN, whole)
        yield slice(begin, end), (-1, BLOCK)
    if whole < stop:
        yield slice(whole, stop), (1, -1)
