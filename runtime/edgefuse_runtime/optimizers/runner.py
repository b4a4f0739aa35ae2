"""Any optimizer over flat buffers, updated in place: in blocks where it moves each element alone.

Such a block stays in a core's cache.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.optimizers.optimizer import Optimizer, Shape, matrices
from edgefuse_runtime.session import open_session, run_bound

BLOCK = 32_768
"""Elements in a block: 128 KiB a tensor. A step of AdamW is a dozen passes over them, which a full
tensor would make through main memory."""

_BLOCKS_A_RUN = 16
"""Enough that calling onnxruntime costs nothing next to its work."""

_GIVEN = ("parameter", "gradient")
_BLOCK_DIMENSIONS = 2

Arrays = Mapping[str, NDArray[np.float32]]


class Stretch(NamedTuple):
    """Elements of the flat buffers that follow one another and are treated alike.

    Attributes:
        start: Index of the first element.
        stop: Index behind the last element.
        shape: Shape of the parameter that they are, or their count.
        decay: Whether they get weight decay.
        rate: Factor on the learning rate.
        share: Part of the parameter's rows that they are; the others are left out.
    """

    start: int
    stop: int
    shape: Shape
    decay: bool
    rate: float
    share: float = 1.0


class _Part(NamedTuple):
    stretch: Stretch
    scalars: dict[str, NDArray[np.float32]]


class OptimizerRunner:
    """Runs optimizer.onnx over flat buffers, its outputs bound to its inputs' memory.

    The graph's inputs say what there is: those with dimensions are `parameter`, `gradient` and the
    states, the others scalars. They also say whether it takes blocks of elements, of any parameter,
    or one parameter at a time (`Optimizer`).

    Attributes:
        states: What the optimizer keeps, flat, by name: of each stretch in turn.
        steps: Count of steps done.
        takes_blocks: Whether the optimizer moves every element by itself.
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
        """Bind every run.

        Args:
            graph: The file optimizer.onnx.
            optimizer: The rule that the graph computes.
            values: Every trained element, flat.
            gradients: Gradient of every element, flat.
            stretches: The values parameter by parameter, in their order.
            threads: Threads to compute with.
        """
        self._optimizer = optimizer
        self.steps = 0
        # Blocks are worked on side by side. A parameter has one run, whose operators are cut.
        session = open_session(graph, threads=1)
        self.takes_blocks = len(_input(session, "parameter").shape) == _BLOCK_DIMENSIONS
        if not self.takes_blocks and threads > 1:
            session = open_session(graph, threads=threads)
        stretches = _joined(stretches) if self.takes_blocks else stretches
        names = [v.name for v in session.get_inputs() if v.shape and v.name not in _GIVEN]
        shapes = [optimizer.states(stretch.shape) for stretch in stretches]
        sizes = {name: [math.prod(shape[name]) for shape in shapes] for name in names}
        self.states = {name: np.zeros(sum(sizes[name]), np.float32) for name in names}
        self._parts: list[_Part] = []
        self._runs: list[Callable[[], None]] = []
        ends = dict.fromkeys(names, 0)
        for index, stretch in enumerate(stretches):
            arrays = {"parameter": values, "gradient": gradients}
            arrays = {name: a[stretch.start : stretch.stop] for name, a in arrays.items()}
            for name, state in self.states.items():
                begin, ends[name] = ends[name], ends[name] + sizes[name][index]
                arrays[name] = state[begin : ends[name]]
            scalars = {v.name: np.ones((), np.float32) for v in session.get_inputs() if not v.shape}
            self._parts.append(_Part(stretch, scalars))
            for bound in self._cut(stretch, arrays, shapes[index]):
                self._runs.append(_bind(session, bound, scalars))
        side_by_side = self.takes_blocks and threads > 1
        self._pool = ThreadPoolExecutor(threads) if side_by_side else None

    def _cut(
        self, stretch: Stretch, arrays: Arrays, states: Mapping[str, Shape]
    ) -> Iterator[Arrays]:
        """The arrays of each run: of many blocks, or of a parameter."""
        if self.takes_blocks:
            for part, shape in _blocks(stretch.stop - stretch.start):
                yield {name: array[part].reshape(shape) for name, array in arrays.items()}
        else:
            shapes = {**dict.fromkeys(_GIVEN, matrices(stretch.shape)), **states}
            yield {name: array.reshape(shapes[name]) for name, array in arrays.items()}

    def step(
        self, learning_rate: float, gradient_norm: float, *, absent: Mapping[int, float]
    ) -> None:
        """Update every value by its gradient.

        Args:
            learning_rate: Learning rate of the step.
            gradient_norm: Global norm of the gradients, for clipping.
            absent: By the first element of a stretch whose parameter has rows left out: the sum of
                their squares, over the count of all its elements. Looked at only where the
                optimizer takes parameters.
        """
        self.steps += 1
        for stretch, scalars in self._parts:
            numbers = {
                "is_vector": float(len(stretch.shape) <= 1),
                "share": stretch.share,
                "absent": absent.get(stretch.start, 0.0),
                **self._optimizer.scalars(
                    step=self.steps,
                    rate=learning_rate * stretch.rate,
                    norm=gradient_norm,
                    decay=stretch.decay,
                ),
            }
            for name, scalar in scalars.items():
                scalar[...] = numbers[name]
        if self._pool is None:
            for run in self._runs:
                run()
        else:
            for _ in self._pool.map(lambda run: run(), self._runs):
                pass


def _input(session: Any, name: str) -> Any:
    return next(value for value in session.get_inputs() if value.name == name)


def _bind(session: Any, tensors: Arrays, scalars: Arrays) -> Callable[[], None]:
    """A run of the graph over arrays, which it changes in place; none of them is copied."""
    binding = session.io_binding()
    for name, array in {**tensors, **scalars}.items():
        bound = ("cpu", 0, np.float32, array.shape, array.ctypes.data)
        binding.bind_input(name, *bound)
        if name in tensors and name != "gradient":
            binding.bind_output(f"new_{name}", *bound)
    return partial(run_bound, session, binding)


def _joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Neighbours with the same decay and rate as one."""
    found = []
    for (decay, rate), group in groupby(stretches, key=lambda s: (s.decay, s.rate)):
        members = list(group)
        start, stop = members[0].start, members[-1].stop
        found.append(Stretch(start, stop, (stop - start,), decay, rate))
    return found


def _blocks(count: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Cut elements into whole blocks, many a run, and a rest; each as (blocks, elements)."""
    whole = count - count % BLOCK
    for begin in range(0, whole, BLOCK * _BLOCKS_A_RUN):
        end = min(begin + BLOCK * _BLOCKS_A_RUN, whole)
        yield slice(begin, end), (-1, BLOCK)
    if whole < count:
        yield slice(whole, count), (1, -1)
