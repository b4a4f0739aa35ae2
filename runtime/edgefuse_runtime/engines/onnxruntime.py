"""The first engine: gradient and optimizer graphs on the stock onnxruntime."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import InternalError, RunError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Step, Tensors, Training, check_shapes
from edgefuse_runtime.engines.gradient_mask import open_gradient_mask
from edgefuse_runtime.engines.vocabulary import Vocabulary
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.blockwise import BlockwiseOptimizer, Stretch
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.session import onnxruntime, open_session
from edgefuse_runtime.tagged import Tagged

_GIVEN = "given."
"""What stands before the names of whole embeddings in a state."""


class OnnxRuntime(Tagged, frozen=True, kw_only=True, tag="onnxruntime"):
    """The stock onnxruntime: wheels for x86-64 and ARM64.

    Attributes:
        version: Version of onnxruntime which the bundle's checks ran on.
    """

    files: ClassVar[tuple[str, ...]] = ("train.onnx", "optimizer.onnx")
    frees_rows: ClassVar[bool] = True

    version: str

    def refusal(
        self,
        *,
        rates: Collection[float],  # noqa: ARG002 - it trains whatever there is
        mask: GradientMask | None,  # noqa: ARG002
        optimizer: Optimizer,  # noqa: ARG002
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
    between them.
    """

    def __init__(self, training: Training) -> None:
        """Open train.onnx and optimizer.onnx, parameters at their start."""
        # Mapped anew where it is needed: pages of a mapping that were read stay resident.
        self._initial_file = training.initial
        self._given: Tensors = {}
        self._parameters = sorted(training.parameters, key=lambda p: (not p.decay, p.rate))
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

        shapes = [self._vocabulary.shape(p) for p in self._parameters]
        ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
        self._values = np.empty(ends[-1], np.float32)
        self._gradients = np.zeros_like(self._values)
        self._views = {}
        gradients = {}
        self._summed: list[NDArray[np.float32]] = []
        self._summed_rows = np.empty(0, np.int64)
        for parameter, shape, (begin, end) in zip(
            self._parameters, shapes, pairwise(ends), strict=True
        ):
            value = self._values[begin:end].reshape(shape)
            self._views[parameter.name] = value
            gradient = self._gradients[begin:end].reshape(shape)
            gradients[parameter.name] = gradient
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
        self._take(self._initial)
        self._mask = open_gradient_mask(
            training.mask, gradients, folder=training.folder, seed=training.seed
        )
        self._optimizer = BlockwiseOptimizer(
            training.folder / "optimizer.onnx",
            training.optimizer,
            self._values,
            self._gradients,
            stretches=_stretches(self._parameters, ends),
            threads=training.threads,
        )

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        feeds = self._vocabulary.renumber(feeds)
        if missing := self._batch_inputs - feeds.keys():  # or the last batch's would stand in
            raise InternalError(f"The batch lacks {', '.join(sorted(missing))}")
        for name in self._batch_inputs:
            self._binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for gradient in self._summed:  # the graph adds to what is there
            gradient[self._summed_rows] = 0
        self._summed_rows = np.unique(feeds["input_ids"])
        self._session.run_with_iobinding(self._binding)
        loss, norm = (float(value.numpy()) for value in self._binding.get_outputs()[:2])
        if math.isfinite(loss) and math.isfinite(norm):
            if self._mask:
                self._mask.apply(self._optimizer.steps)
            self._optimizer.step(learning_rate, norm)
        return Step(loss=loss, gradient_norm=norm)

    def parameters(self) -> Tensors:
        """Trained parameters as they stand now, by name; views, but for an embedding in part."""
        initial = self._initial
        return {
            p.name: self._vocabulary.restore(
                p, self._views[p.name], initial[p.name], self._optimizer.absent_factor
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
        self._optimizer.absent_factor = 1.0

    @property
    def _initial(self) -> Mapping[str, NDArray[Any]]:
        """Whole parameters before the first step, or as they were set."""
        return {**map_tensors(self._initial_file), **self._given}

    def _take(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        for parameter in self._parameters:
            part = self._vocabulary.take(parameter, parameters[parameter.name])
            self._views[parameter.name][...] = part

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
        steps, self._optimizer.absent_factor = state["progress"].tolist()
        self._optimizer.steps = int(steps)

    def _buffers(self) -> dict[str, NDArray[np.float32]]:
        return {"values": self._values, **self._optimizer.states}

    def _rows(self) -> dict[str, NDArray[np.int64]]:
        return {} if self._vocabulary.rows is None else {"rows": self._vocabulary.rows}

    def _progress(self) -> NDArray[np.float64]:
        return np.array([self._optimizer.steps, self._optimizer.absent_factor])


def _stretches(parameters: Sequence[Parameter], ends: Sequence[int]) -> list[Stretch]:
    """Neighbours with the same decay and rate, of parameters that end at `ends[1:]`."""
    found = []
    placed = zip(parameters, pairwise(ends), strict=True)
    for (decay, rate), group in groupby(placed, key=lambda pair: (pair[0].decay, pair[0].rate)):
        places = [place for _, place in group]
        found.append(Stretch(places[0][0], places[-1][1], decay, rate))
    return found
