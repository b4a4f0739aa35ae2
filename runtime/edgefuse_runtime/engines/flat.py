"""What engines on the stock onnxruntime share: flat buffers, the optimizer, and their state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import RunError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Part, Step, Tensors, Training, check_shapes
from edgefuse_runtime.engines.gradient_mask import open_gradient_mask
from edgefuse_runtime.engines.vocabulary import Vocabulary
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.runner import OptimizerRunner, Stretch
from edgefuse_runtime.session import open_session, run_bound

_GIVEN = "given."
"""What stands before the names of whole embeddings in a state."""

_ABSENT = Parameter(name="", shape=[1], gradient="", decay=True)
"""An element that is 1 at the start and has no gradient: it becomes what every row is multiplied
by whose token never occurs."""


class FlatEngine(ABC):
    """Trains in flat buffers: values, gradients and the optimizer's states, such as two moments.

    Every trained parameter is a view of its stretch of the first buffer, which gradient graphs
    read and the optimizer writes; every gradient a view of the second, which the graphs write and
    the optimizer reads. Frozen weights are read where their file is mapped. Nothing is copied
    between them. Where a batch comes in parts, the graphs write a third buffer, whose content is
    added up in the second.
    """

    gives_norm = False
    """Whether `_differentiate` gives the norm of what it has written."""

    def __init__(self, training: Training) -> None:
        """Lay out the buffers, parameters at their start, and open the graphs."""
        # Mapped anew where it is needed: pages of a mapping that were read stay resident.
        self._initial_file = training.initial
        self._given: Tensors = {}
        self._seed = training.seed
        self._parameters = sorted(training.parameters, key=lambda p: (not p.decay, p.rate))
        laid = [*self._parameters, _ABSENT]
        self._vocabulary = Vocabulary.of(
            training.parameters, training.token_ids, padding_id=training.padding_id
        )
        shapes = [self._vocabulary.shape(p) for p in laid]
        places = list(pairwise(np.cumsum([0, *map(math.prod, shapes)]).tolist()))
        self._values = np.ones(places[-1][1], np.float32)
        self._gradients = np.zeros_like(self._values)
        self._part = np.zeros_like(self._values) if training.accumulates else self._gradients
        self._views: Tensors = {}
        self._written: Tensors = {}
        gradients: Tensors = {}
        for parameter, shape, (begin, end) in zip(self._parameters, shapes, places, strict=False):
            value = self._values[begin:end].reshape(shape)
            self._views[parameter.name] = value
            gradients[parameter.name] = self._gradients[begin:end].reshape(shape)
            self._written[parameter.name] = self._part[begin:end].reshape(shape)
        separately = training.accumulates or not self.gives_norm
        self._norm = _open_norm(training, gradients) if separately else None
        self._accumulates = training.accumulates
        self._mask = open_gradient_mask(
            training.mask, gradients, folder=training.folder, seed=training.seed
        )
        self._optimizer = OptimizerRunner(
            training.folder / "optimizer.onnx",
            training.optimizer,
            self._values,
            self._gradients,
            stretches=[
                Stretch(
                    begin,
                    end,
                    shape,
                    p.decay,
                    p.rate,
                    share=math.prod(shape) / math.prod(p.shape),
                )
                for p, shape, (begin, end) in zip(laid, shapes, places, strict=True)
            ],
            threads=training.threads,
        )
        self._begins = {p.name: begin for p, (begin, _) in zip(laid, places, strict=True)}
        self._open(training)
        self._take(self._initial)

    @abstractmethod
    def _open(self, training: Training) -> None:
        """Open the graphs, and bind `_views`, `_written` and the frozen weights to them."""

    @abstractmethod
    def _differentiate(self, feeds: Feeds, part: int) -> tuple[float, float]:
        """Loss of a part of a step, whose gradients are written; and their norm, if it is known."""

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        return self.step_in_parts([Part(feeds, 1.0)], learning_rate)

    def step_in_parts(self, parts: Sequence[Part], learning_rate: float) -> Step:
        """Train on a batch that comes in parts, of which all gradients are added up first."""
        loss, norm = 0.0, 0.0
        for index, part in enumerate(parts):
            part_loss, norm = self._differentiate(part.feeds, index)
            loss += part.share * part_loss
            if self._accumulates:
                self._add_up(part.share, anew=index == 0)
        if self._norm:
            norm = self._norm.measure()
        if math.isfinite(loss) and math.isfinite(norm):
            if self._mask:
                self._mask.apply(self._optimizer.steps)
            self._optimizer.step(learning_rate, norm, absent=self._absent_squares())
        return Step(loss=loss, gradient_norm=norm)

    def gradients(self, feeds: Feeds) -> tuple[Step, Tensors]:
        """Loss and gradients of a batch (views, of the rows that train); nothing moves."""
        loss, norm = self._differentiate(feeds, 0)
        if self._norm and not self._accumulates:
            norm = self._norm.measure()
        return Step(loss=loss, gradient_norm=norm), dict(self._written)

    def _add_up(self, share: float, *, anew: bool) -> None:
        if anew:
            np.multiply(self._part, np.float32(share), out=self._gradients)
        else:
            self._part *= np.float32(share)
            self._gradients += self._part

    def _absent_squares(self) -> dict[int, float]:
        """What rows that are left out add to the mean square of their parameters, by place."""
        factor = self._absent_factor**2
        return {begin: square * factor for begin, square in self._left_out.items()}

    @property
    def _absent_factor(self) -> float:
        return float(self._values[-1])

    def parameters(self) -> Tensors:
        """Trained parameters as they stand now, by name; views, but for an embedding in part."""
        initial = self._initial
        return {
            p.name: self._vocabulary.restore(
                p, self._views[p.name], initial[p.name], self._absent_factor
            )
            for p in self._parameters
        }

    def set_parameters(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Continue from other values of all trained parameters; the moments stay.

        Raises:
            RunError: A parameter is missing, or of another shape.
        """
        check_shapes(parameters, self._parameters)
        self._given = {  # of these, rows that are left out of training begin from the values too
            p.name: np.array(parameters[p.name])
            for p in self._parameters
            if self._vocabulary.shape(p) != tuple(p.shape)
        }
        self._take(parameters)
        # Rows that are left out have no states but this, which was for what they were before.
        for buffer in self._optimizer.states.values():
            buffer[-1:] = 0

    @property
    def _initial(self) -> Mapping[str, NDArray[Any]]:
        """Whole parameters before the first step, or as they were set."""
        return {**map_tensors(self._initial_file), **self._given}

    def _take(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        for parameter in self._parameters:
            part = self._vocabulary.take(parameter, parameters[parameter.name])
            self._views[parameter.name][...] = part
        self._values[-1] = 1
        self._measure_left_out(parameters)

    def _measure_left_out(self, whole: Mapping[str, NDArray[Any]]) -> None:
        """Rows that are left out count where an optimizer looks at whole parameters."""
        self._left_out = {
            self._begins[p.name]: self._vocabulary.left_out(p, whole[p.name]) / math.prod(p.shape)
            for p in self._parameters
            if not self._optimizer.takes_blocks and p.free_rows
        }

    def state(self) -> Tensors:
        """The flat buffers (views), the rows they stand for, and the optimizer's progress."""
        given = {f"{_GIVEN}{name}": values for name, values in self._given.items()}
        return {**self._buffers(), **self._rows(), **given, "progress": self._progress()}

    def load_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            RunError: It is the state of other parameters, or of other tokens.
        """
        same_rows = all(np.array_equal(rows, state[name]) for name, rows in self._rows().items())
        buffers = self._buffers()
        if not same_rows or any(state[name].shape != b.shape for name, b in buffers.items()):
            raise RunError(
                "The checkpoint is one of other parameters or other training data",
                "Resume with the bundle and the data that the run began with",
            )
        for name, buffer in buffers.items():
            buffer[...] = state[name]
        self._given = {
            name.removeprefix(_GIVEN): np.array(values)
            for name, values in state.items()
            if name.startswith(_GIVEN)
        }
        self._optimizer.steps = int(state["progress"][0])
        self._measure_left_out(self._initial)

    def _buffers(self) -> dict[str, NDArray[np.float32]]:
        return {"values": self._values, **self._optimizer.states}

    def _rows(self) -> dict[str, NDArray[np.int64]]:
        return {} if self._vocabulary.rows is None else {"rows": self._vocabulary.rows}

    def _progress(self) -> NDArray[np.float64]:
        return np.array([self._optimizer.steps], np.float64)


class _Norm(NamedTuple):
    session: Any
    binding: Any

    def measure(self) -> float:
        run_bound(self.session, self.binding)
        return float(self.binding.get_outputs()[0].numpy())


def _open_norm(training: Training, gradients: Tensors) -> _Norm:
    """Open the graph that computes the global norm of gradients where they lie."""
    session = open_session(training.folder / "gradient_norm.onnx", threads=training.threads)
    binding = session.io_binding()
    for parameter in training.parameters:
        gradient = gradients[parameter.name]
        place = ("cpu", 0, np.float32, gradient.shape, gradient.ctypes.data)
        binding.bind_input(parameter.gradient, *place)
    binding.bind_output("gradient_norm", "cpu")
    return _Norm(session, binding)
