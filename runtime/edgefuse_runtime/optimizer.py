"""AdamW in blocks that stay in a core's cache, updated in place."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.bundle import AdamW
from edgefuse_runtime.session import open_session

BLOCK = 32_768
"""Elements in a block: 128 KiB a tensor. An AdamW step is a dozen passes over them, which a full
tensor would make through main memory."""

_BLOCKS_A_RUN = 16
"""Enough that calling onnxruntime costs nothing next to its work."""


class BlockwiseAdamW:
    """Runs optimizer.onnx over flat buffers, its outputs bound to its inputs' memory.

    Attributes:
        first_moments: Of the shape of the values; m / (1 − β1), as the graph keeps it.
        second_moments: Likewise; v / (1 − β2).
        steps: Done so far.
        shrinkage: Product of (1 − learning rate · weight decay) over the steps.
    """

    def __init__(
        self,
        graph: Path,
        settings: AdamW,
        values: NDArray[np.float32],
        gradients: NDArray[np.float32],
        *,
        decayed: int,
        threads: int,
    ) -> None:
        """Bind the blocks.

        Args:
            graph: optimizer.onnx.
            settings: Of AdamW.
            values: Every trained element, flat.
            gradients: Of the same shape.
            decayed: The first so many get weight decay.
            threads: Blocks worked on at a time.
        """
        self._settings = settings
        self.first_moments = np.zeros_like(values)
        self.second_moments = np.zeros_like(values)
        self.steps = 0
        self.shrinkage = 1.0
        self._scalars = {
            name: np.ones((), np.float32)
            for name in ("gradient_scale", "step_size", "eps", "shrinkage", "no_shrinkage")
        }
        session = open_session(graph, threads=1)
        tensors = {
            "parameter": values,
            "gradient": gradients,
            "first_moment": self.first_moments,
            "second_moment": self.second_moments,
        }
        self._blocks: list[Callable[[], None]] = []
        for start, stop, shrinkage in (
            (0, decayed, "shrinkage"),
            (decayed, len(values), "no_shrinkage"),
        ):
            scalars = {**self._scalars, "shrinkage": self._scalars[shrinkage]}
            del scalars["no_shrinkage"]
            for part, shape in _runs(start, stop):
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
        shrinkage = 1 - learning_rate * settings.weight_decay
        limit = settings.max_gradient_norm
        for name, value in {
            "gradient_scale": min(1.0, limit / (gradient_norm + 1e-6)) if limit else 1.0,
            "step_size": learning_rate * average / correction,
            "eps": settings.eps / correction,
            "shrinkage": shrinkage,
        }.items():
            self._scalars[name][...] = value
        self.shrinkage *= float(np.float32(shrinkage))  # what the graph multiplies by
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
