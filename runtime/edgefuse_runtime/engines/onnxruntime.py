"""The first engine: gradient and optimizer graphs on the stock onnxruntime."""

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from edgefuse_devices.errors import InternalError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Tensors, Training
from edgefuse_runtime.engines.flat import FlatEngine
from edgefuse_runtime.graph.dropout import DROPOUT_KEY, dropout_key
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.session import onnxruntime, open_session, run_bound
from edgefuse_runtime.tagged import Tagged


class OnnxRuntime(Tagged, frozen=True, kw_only=True, tag="onnxruntime"):
    """The stock onnxruntime: wheels for x86-64 and ARM64.

    Attributes:
        version: Version of onnxruntime which the bundle's checks ran on.
    """

    files: ClassVar[tuple[str, ...]] = ("train.onnx", "gradient_norm.onnx", "optimizer.onnx")
    frees_rows: ClassVar[bool] = True
    keeps_rows: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = ""

    version: str

    def layers_kept(self, budget: float, *, rows: int, tokens: int) -> tuple[int, float]:  # noqa: ARG002
        """None: its graph keeps all insides, and counts them."""
        return 0, 0.0

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


class OnnxRuntimeEngine(FlatEngine):
    """Trains by one graph of the whole model, train.onnx."""

    gives_norm = True

    def _open(self, training: Training) -> None:
        graph = training.folder / "train.onnx"
        self._session = open_session(graph, threads=training.threads)
        inputs = {value.name for value in self._session.get_inputs()}
        self._binding = self._session.io_binding()
        self._binding.bind_output("loss", "cpu")
        self._binding.bind_output("gradient_norm", "cpu")
        for name in inputs & training.frozen.keys():
            self._binding.bind_cpu_input(name, np.asarray(training.frozen[name], order="C"))
        self._summed: Tensors = {}
        self._summed_rows = np.empty(0, np.int64)
        for parameter in self._parameters:
            gradient = self._written[parameter.name]
            bindings = [
                (self._binding.bind_input, parameter.name, self._views[parameter.name]),
                (self._binding.bind_output, parameter.gradient, gradient),
            ]
            if parameter.free_rows:
                bindings.append((self._binding.bind_input, parameter.zeros, gradient))
                self._summed[parameter.name] = gradient
            for bind, name, array in bindings:
                bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._batch_inputs = inputs - training.frozen.keys()
        self._batch_inputs -= {name for p in self._parameters for name in (p.name, p.zeros)}

    def _differentiate(self, feeds: Feeds, part: int) -> tuple[float, float]:
        """Loss and gradient norm of a part of a step, whose gradients are written."""
        feeds = {**self._vocabulary.renumber(feeds), **self._key(part)}
        if missing := self._batch_inputs - feeds.keys():  # or the last batch's would stand in
            raise InternalError(f"The batch lacks {', '.join(sorted(missing))}")
        for name in self._batch_inputs:
            self._binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for gradient in self._summed.values():  # the graph adds to what is there
            gradient[self._summed_rows] = 0
        self._summed_rows = np.unique(feeds["input_ids"])
        run_bound(self._session, self._binding)
        loss, norm = (float(value.numpy()) for value in self._binding.get_outputs()[:2])
        return loss, norm

    def _key(self, part: int) -> Feeds:
        """The key of the dropout masks, if the graph has any."""
        if DROPOUT_KEY not in self._batch_inputs:
            return {}
        return {DROPOUT_KEY: dropout_key(self._seed, self._optimizer.steps, part)}
