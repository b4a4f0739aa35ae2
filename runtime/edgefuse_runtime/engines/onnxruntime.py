"""The first engine: gradient and optimizer graphs on the stock onnxruntime."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import RunError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.bundle.manifest import Parameter
from edgefuse_runtime.engines.engine import Batch, Step, Tensors
from edgefuse_runtime.engines.gradient_mask import open_gradient_mask
from edgefuse_runtime.engines.vocabulary import Vocabulary
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.optimizers.blockwise import BlockwiseAdamW, Stretch
from edgefuse_runtime.session import open_session


class OnnxRuntimeEngine:
    """Trains in four flat buffers: values, gradients, first and second moments.

    Every trained parameter is a view of its stretch of the first buffer, which the training graph
    reads and the optimizer writes; every gradient a view of the second, which the graph writes and
    the optimizer reads. Frozen weights are read where their file is mapped. Nothing is copied
    between them.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        token_ids: NDArray[np.int64] | None = None,
        seed: int = 0,
    ) -> None:
        """Open train.onnx and optimizer.onnx, parameters at their start.

        Args:
            bundle: Exported for this engine.
            threads: Threads to compute with.
            token_ids: Token ids that training will see; None for all.
            seed: Of a gradient mask that is drawn.
        """
        self._file = bundle.path / "trainable.safetensors"
        initial = map_tensors(self._file)  # kept no longer than this: pages read stay resident
        self._parameters = sorted(bundle.manifest.parameters, key=lambda p: (not p.decay, p.rate))
        self._vocabulary = Vocabulary.of(bundle, token_ids)
        self._session = open_session(bundle.path / "train.onnx", threads=threads)
        self._binding = self._session.io_binding()
        self._binding.bind_output("loss", "cpu")
        self._binding.bind_output("gradient_norm", "cpu")
        for name in {value.name for value in self._session.get_inputs()} & bundle.frozen.keys():
            self._binding.bind_cpu_input(name, np.asarray(bundle.frozen[name], order="C"))

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
            value[...] = self._vocabulary.take(parameter, initial[parameter.name])
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
        self._mask = open_gradient_mask(bundle, gradients, seed=seed)
        self._optimizer = BlockwiseAdamW(
            bundle.path / "optimizer.onnx",
            bundle.manifest.optimizer,
            self._values,
            self._gradients,
            stretches=_stretches(self._parameters, ends),
            threads=threads,
        )

    def step(self, batch: Batch, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        feeds = {**self._vocabulary.renumber(batch.inputs), "labels": batch.labels}
        for name, value in feeds.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(value))
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
        initial = map_tensors(self._file)
        return {
            p.name: self._vocabulary.restore(
                p, self._views[p.name], initial[p.name], self._optimizer.shrinkage
            )
            for p in self._parameters
        }

    def state(self) -> Tensors:
        """The flat buffers (views), the rows they stand for, and the optimizer's progress."""
        return {**self._buffers(), **self._rows(), "progress": self._progress()}

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
        steps, self._optimizer.shrinkage = state["progress"].tolist()
        self._optimizer.steps = int(steps)

    def _buffers(self) -> dict[str, NDArray[np.float32]]:
        return {
            "values": self._values,
            "first_moments": self._optimizer.first_moments,
            "second_moments": self._optimizer.second_moments,
        }

    def _rows(self) -> dict[str, NDArray[np.int64]]:
        return {} if self._vocabulary.rows is None else {"rows": self._vocabulary.rows}

    def _progress(self) -> NDArray[np.float64]:
        return np.array([self._optimizer.steps, self._optimizer.shrinkage])


def _stretches(parameters: Sequence[Parameter], ends: Sequence[int]) -> list[Stretch]:
    """Neighbours with the same decay and rate, of parameters that end at `ends[1:]`."""
    found = []
    placed = zip(parameters, pairwise(ends), strict=True)
    for (decay, rate), group in groupby(placed, key=lambda pair: (pair[0].decay, pair[0].rate)):
        places = [place for _, place in group]
        found.append(Stretch(places[0][0], places[-1][1], decay, rate))
    return found
