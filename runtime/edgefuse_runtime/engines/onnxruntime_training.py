"""The second engine: the on-device training API of onnxruntime-training."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Part, Step, Tensors, Training, check_shapes
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.onnx_graph import check_graph
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.session import graph_errors, onnxruntime, session_options
from edgefuse_runtime.tagged import Tagged

_CHECKPOINT = "checkpoint"
_TRAINING_MODEL, _OPTIMIZER_MODEL = "training_model.onnx", "optimizer_model.onnx"


class OnnxRuntimeTraining(Tagged, frozen=True, kw_only=True, tag="onnxruntime-training"):
    """The on-device training API of onnxruntime-training, which ended at 1.19.2.

    Attributes:
        version: Version of onnxruntime-training that the bundle was exported with.
    """

    files: ClassVar[tuple[str, ...]] = (
        "training/checkpoint",
        f"training/{_TRAINING_MODEL}",
        f"training/{_OPTIMIZER_MODEL}",
    )
    frees_rows: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = "clips the gradient of each part of a batch by itself"

    version: str

    def layers_kept(self, budget: float, *, rows: int, tokens: int) -> tuple[int, float]:  # noqa: ARG002
        """None: its graph keeps all insides, and counts them."""
        return 0, 0.0

    def refusal(
        self,
        *,
        rates: Collection[float],
        mask: GradientMask | None,
        optimizer: Optimizer,
        dropout: bool,
    ) -> str:
        """Why the engine cannot train so: it has AdamW with one rate, and keeps gradients."""
        if not isinstance(optimizer, AdamW):
            return f"onnxruntime-training knows adamw, and no {optimizer.name}"
        if any(rate != 1 for rate in rates):
            return "onnxruntime-training has one learning rate for all parameters"
        if mask is not None:
            return "onnxruntime-training does not give its gradients out, and this way masks them"
        if dropout:
            return "onnxruntime-training draws no dropout masks that a resumed run would draw again"
        return ""

    def installed(self) -> str:
        """Version of onnxruntime-training here, which stands in onnxruntime's place."""
        return str(onnxruntime().__version__)

    def open(self, training: Training) -> "OnnxRuntimeTrainingEngine":
        """Open the artifacts, parameters at their start.

        Raises:
            BundleError: onnxruntime-training is not installed.
        """
        return OnnxRuntimeTrainingEngine(training)


class OnnxRuntimeTrainingEngine:
    """Forward, backward and optimizer over the artifacts in a bundle's `training/`.

    Needs onnxruntime-training in onnxruntime's place (x86-64, Python up to 3.12; a processor is
    enough). What differs from the stock engine: `docs/onnxruntime-training.md`.
    """

    def __init__(self, training: Training) -> None:
        """Open the artifacts, parameters at their start.

        Raises:
            BundleError: onnxruntime-training is not installed.
        """
        try:
            from onnxruntime.training import api  # noqa: PLC0415 - not in the stock wheel
        except ImportError as error:
            raise BundleError(
                f"{training.folder} needs onnxruntime-training, which is not installed here",
                "In an environment of its own: pip install edgefuse[ort-training], as "
                "docs/onnxruntime-training.md says; or export with --engine onnxruntime",
            ) from error
        for name in (_TRAINING_MODEL, _OPTIMIZER_MODEL):
            check_graph(training.folder / "training" / name)
        self._api = api
        assert isinstance(training.optimizer, AdamW)
        self._folder = training.folder / "training"
        self._parameters = training.parameters
        self._optimizer_settings = training.optimizer
        self._options = session_options(threads=training.threads)
        self._open(self._folder / _CHECKPOINT)

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        done = self._backward(feeds)
        if math.isfinite(done.loss) and math.isfinite(done.gradient_norm):
            self._exempt_from_decay(learning_rate)
            self._optimizer.set_learning_rate(learning_rate)
            self._optimizer.step()
        return done

    def gradients(self, feeds: Feeds) -> tuple[Step, Tensors]:
        """Loss and the gradients' norm; the API keeps the gradients themselves."""
        return self._backward(feeds), {}

    def _backward(self, feeds: Feeds) -> Step:
        with graph_errors():
            self._module.train()
            self._module.lazy_reset_grad()
            outputs = self._module(*(feeds[name] for name in self._module.input_names()))
        return Step(loss=float(outputs[0]), gradient_norm=float(outputs[2]))

    def step_in_parts(self, parts: Sequence[Part], learning_rate: float) -> Step:
        """Train on a batch in one part: it cannot have more, as the engine's spec says."""
        (part,) = parts
        return self.step(part.feeds, learning_rate)

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Trained parameters as they stand now, by name; views that later steps change."""
        return {p.name: self._state.parameters[p.name].data for p in self._parameters}

    def set_parameters(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Continue from other values of all trained parameters; the moments stay.

        Raises:
            RunError: A parameter is missing, or of another shape.
        """
        check_shapes(parameters, self._parameters)
        for name, values in self.parameters().items():
            values[...] = parameters[name]

    def state(self) -> dict[str, NDArray[Any]]:
        """The API's own checkpoint file, as bytes: it gives the moments out in no other form."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / _CHECKPOINT
            self._api.CheckpointState.save_checkpoint(
                self._state, file, include_optimizer_state=True
            )
            return {_CHECKPOINT: np.fromfile(file, dtype=np.uint8)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from what `state` returned, here or in another process."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / _CHECKPOINT
            state[_CHECKPOINT].tofile(file)
            self._open(file)

    def _open(self, checkpoint: Path) -> None:
        with graph_errors():
            self._state = self._api.CheckpointState.load_checkpoint(checkpoint)
            self._module = self._api.Module(
                self._folder / _TRAINING_MODEL, self._state, session_options=self._options
            )
            self._optimizer = self._api.Optimizer(self._folder / _OPTIMIZER_MODEL, self._module)

    def _exempt_from_decay(self, learning_rate: float) -> None:
        """Undo beforehand the decay that the optimizer graph applies to every parameter.

        It multiplies each by 1 − learning_rate · weight_decay before it does anything else.
        """
        kept = 1 - learning_rate * self._optimizer_settings.weight_decay
        for parameter in self._parameters:
            if not parameter.decay:
                data = self._state.parameters[parameter.name].data
                data /= kept
