"""The first engine: gradient and optimizer graphs on the stock onnxruntime."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import InternalError, RunError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Part, Step, Tensors, Training, check_shapes
from edgefuse_runtime.engines.gradient_mask import open_gradient_mask
from edgefuse_runtime.engines.vocabulary import Vocabulary
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.dropout import DROPOUT_KEY, dropout_key
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.optimizers.runner import OptimizerRunner, Stretch
from edgefuse_runtime.session import onnxruntime, open_session
from edgefuse_runtime.tagged import Tagged

_GIVEN = "given."
"""What stands before the names of whole embeddings in a state."""

_ABSENT = Parameter(name="", shape=[1], gradient="", decay=True)
"""An element that is 1 at the start and has no gradient: it becomes what every row is multiplied
by whose token never occurs."""


class OnnxRuntime(Tagged, frozen=True, kw_only=True, tag="onnxruntime"):
    """The stock onnxruntime: wheels for x86-64 and ARM64.

    Attributes:
        version: Version of onnxruntime which the bundle's checks ran on.
    """

    files: ClassVar[tuple[str, ...]] = ("train.onnx", "gradient_norm.onnx", "optimizer.onnx")
    frees_rows: ClassVar[bool] = True
    no_accumulation: ClassVar[str] = ""

    version: str

    def refusal(
        self,
        *,
        rates: Collection[float],  # noqa: ARG002 - it trains whatever there is
        mask: GradientMask | None,  # noqa: ARG002
        optimizer: Optimizer,  # noqa: ARG002
        dropout: bool,  # noqa: ARG002
    ) -> str:
        """Nothing: every rate, mask and optimizer is a graph or an array here."""
        return ""

    def installed(self) -> str:
        """Version of onnxruntime here."""
        return str(onnxruntime().__version__)

    def open(self, training: Training) -> "OnnxRuntimeEngine":
        """Open train.onnx and optimizer.onnx, parameters at their start."""
        return OnnxRuntimeEngine(training)


class OnnxRuntimeEngine:
    """Trains in flat buffers: values, gradients and the optimizer's states, such as two moments.

    Every trained parameter is a view of its stretch of the first buffer, which the training graph
    reads and the optimizer writes; every gradient a view of the second, which the graph writes and
    the optimizer reads. Frozen weights are read where their file is mapped. Nothing is copied
    between them. Where a batch comes in parts, the graph writes a third buffer, whose content is
    added up in the second.
    """

    def __init__(self, training: Training) -> None:
        """Open train.onnx and optimizer.onnx, parameters at their start."""
        # Mapped anew where it is needed: pages of a mapping that were read stay resident.
        self._initial_file = training.initial
        self._given: Tensors = {}
        self._seed = training.seed
        self._parameters = sorted(training.parameters, key=lambda p: (not p.decay, p.rate))
        laid = [*self._parameters, _ABSENT]
        self._vocabulary = Vocabulary.of(
            training.parameters, training.token_ids, padding_id=training.padding_id
        )
        graph = training.folder / "train.onnx"
        self._session = open_session(graph, threads=training.threads)
        inputs = {value.name for value in self._session.get_inputs()}
        self._binding = self._session.io_binding()
        self._binding.bind_output("loss", "cpu")
        self._binding.bind_output("gradient_norm", "cpu")
        for name in inputs & training.frozen.keys():
            self._binding.bind_cpu_input(name, np.asarray(training.frozen[name], order="C"))

        shapes = [self._vocabulary.shape(p) for p in laid]
        places = list(pairwise(np.cumsum([0, *map(math.prod, shapes)]).tolist()))
        self._values = np.ones(places[-1][1], np.float32)
        self._gradients = np.zeros_like(self._values)
        self._part = np.zeros_like(self._values) if training.accumulates else self._gradients
        self._views = {}
        gradients = {}
        self._written: Tensors = {}
        self._summed: list[NDArray[np.float32]] = []
        self._summed_rows = np.empty(0, np.int64)
        for parameter, shape, (begin, end) in zip(self._parameters, shapes, places, strict=False):
            value = self._values[begin:end].reshape(shape)
            self._views[parameter.name] = value
            gradients[parameter.name] = self._gradients[begin:end].reshape(shape)
            gradient = self._part[begin:end].reshape(shape)
            self._written[parameter.name] = gradient
            bindings = [
                (self._binding.bind_input, parameter.name, value),
                (self._binding.bind_output, parameter.gradient, gradient),
            ]
            if parameter.free_rows:
                bindings.append((self._binding.bind_input, parameter.zeros, gradient))
                self._summed.append(gradient)
            for bind, name, array in bindings:
                bind(name, "cpu", 0, np.float32, shape, array.ctypes.data)
        self._batch_inputs = inputs - training.frozen.keys()
        self._batch_inputs -= {name for p in self._parameters for name in (p.name, p.zeros)}
        self._norm = _open_norm(training, gradients) if training.accumulates else None
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
        self._take(self._initial)

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        return self.step_in_parts([Part(feeds, 1.0)], learning_rate)

    def step_in_parts(self, parts: Sequence[Part], learning_rate: float) -> Step:
        """Train on a batch that comes in parts, of which all gradients are added up first."""
        loss, norm = 0.0, 0.0
        for index, part in enumerate(parts):
            part_loss, norm = self._differentiate(part.feeds, index)
            loss += part.share * part_loss
            if self._norm:
                self._add_up(part.share, anew=index == 0)
        if self._norm:
            self._norm.session.run_with_iobinding(self._norm.binding)
            norm = float(self._norm.binding.get_outputs()[0].numpy())
        if math.isfinite(loss) and math.isfinite(norm):
            if self._mask:
                self._mask.apply(self._optimizer.steps)
            self._optimizer.step(learning_rate, norm, absent=self._absent_squares())
        return Step(loss=loss, gradient_norm=norm)

    def gradients(self, feeds: Feeds) -> tuple[Step, Tensors]:
        """Loss and gradients of a batch (views, of the rows that train); nothing moves."""
        loss, norm = self._differentiate(feeds)
        return Step(loss=loss, gradient_norm=norm), dict(self._written)

    def _differentiate(self, feeds: Feeds, part: int = 0) -> tuple[float, float]:
        """Loss and gradient norm of a part of a step, whose gradients are written."""
        feeds = {**self._vocabulary.renumber(feeds), **self._key(part)}
        if missing := self._batch_inputs - feeds.keys():  # or the last batch's would stand in
            raise InternalError(f"The batch lacks {', '.join(sorted(missing))}")
        for name in self._batch_inputs:
            self._binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for gradient in self._summed:  # the graph adds to what is there
            gradient[self._summed_rows] = 0
        self._summed_rows = np.unique(feeds["input_ids"])
        self._session.run_with_iobinding(self._binding)
        loss, norm = (float(value.numpy()) for value in self._binding.get_outputs()[:2])
        return loss, norm

    def _key(self, part: int) -> Feeds:
        """The key of the dropout masks, if the graph has any."""
        if DROPOUT_KEY not in self._batch_inputs:
            return {}
        return {DROPOUT_KEY: dropout_key(self._seed, self._optimizer.steps, part)}

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
