"""Any optimizer in blocks that stay in a core's cache, updated in place."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.session import open_session

BLOCK = 32_768
"""Elements in a block: 128 KiB a tensor. A step of AdamW is a dozen passes over them, which a full
tensor would make through main memory."""

_BLOCKS_A_RUN = 16
"""Enough that calling onnxruntime costs nothing next to its work."""

_GIVEN = ("parameter", "gradient")


class Stretch(NamedTuple):
    """Elements of the flat buffers that follow one another and are treated alike.

    Attributes:
        start: Index of the first element.
        stop: Index behind the last element.
        decay: Whether they get weight decay.
        rate: Factor on the learning rate.
    """

    start: int
    stop: int
    decay: bool
    rate: float


class BlockwiseOptimizer:
    """Runs optimizer.onnx over flat buffers, its outputs bound to its inputs' memory.

    The graph's inputs say what there is: those with elements are `parameter`, `gradient` and the
    states, the others scalars.

    Attributes:
        states: What the optimizer keeps for each element, by name, of the shape of the values.
        steps: Count of steps done.
        absent_factor: Product over the steps of what a decaying row is multiplied by whose token
            never occurs, for a rate of 1.
    """

    def __init__(
        self,
        graph: Path,
        optimizer: Optimizer,
        values: NDArray[np.float32],
        gradients: NDArray[np.float32],
        *,
        stretches: Sequence[Stretch],
        threads: int,
    ) -> None:
        """Bind the blocks.

        Args:
            graph: The file optimizer.onnx.
            optimizer: The rule that the graph computes.
            values: Every trained element, flat.
            gradients: Gradient of every element, flat.
            stretches: All stretches of the values.
            threads: Blocks worked on at a time.
        """
        self._optimizer = optimizer
        self.steps = 0
        self.absent_factor = 1.0
        session = open_session(graph, threads=1)
        inputs = session.get_inputs()
        self.states = {
            value.name: np.zeros_like(values)
            for value in inputs
            if value.shape and value.name not in _GIVEN
        }
        tensors = {"parameter": values, "gradient": gradients, **self.states}
        self._stretches = [
            (stretch, {v.name: np.ones((), np.float32) for v in inputs if not v.shape})
            for stretch in stretches
        ]
        self._blocks: list[Callable[[], None]] = []
        for stretch, scalars in self._stretches:
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
            learning_rate: Learning rate of the step.
            gradient_norm: Global norm of the gradients, for clipping.
        """
        self.steps += 1
        for stretch, scalars in self._stretches:
            numbers = self._optimizer.scalars(
                step=self.steps,
                rate=learning_rate * stretch.rate,
                norm=gradient_norm,
                decay=stretch.decay,
            )
            for name, scalar in scalars.items():
                scalar[...] = numbers[name]
        # As the graph multiplies: in float32.
        self.absent_factor *= float(np.float32(self._optimizer.absent_factor(learning_rate)))
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
