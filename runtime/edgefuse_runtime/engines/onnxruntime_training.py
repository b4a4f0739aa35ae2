"""The second engine: the on-device training API of onnxruntime-training."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.engines.engine import Batch, Step
from edgefuse_runtime.session import session_options

_CHECKPOINT = "checkpoint"


class OnnxRuntimeTrainingEngine:
    """Forward, backward and optimizer over the artifacts in a bundle's `training/`.

    Needs onnxruntime-training in onnxruntime's place (x86-64, Python up to 3.12; a processor is
    enough). What differs from the stock engine: `docs/onnxruntime-training.md`.
    """

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        """Open the artifacts, parameters at their start.

        Args:
            bundle: Exported for this engine.
            threads: Intra-operator threads.

        Raises:
            BundleError: onnxruntime-training is not installed.
        """
        try:
            from onnxruntime.training import api  # noqa: PLC0415 - not in the stock wheel
        except ImportError as error:
            raise BundleError(
                f"{bundle.path} needs onnxruntime-training, which is not installed here",
                "In an environment of its own: pip install edgefuse[ort-training], as "
                "docs/onnxruntime-training.md says; or export with --engine onnxruntime",
            ) from error
        self._api = api
        self._folder = bundle.path / "training"
        self._parameters = bundle.manifest.parameters
        self._weight_decay = bundle.manifest.optimizer.weight_decay
        self._options = session_options(threads=threads)
        self._open(self._folder / _CHECKPOINT)

    def step(self, batch: Batch, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing."""
        feeds = {**batch.inputs, "labels": batch.labels}
        self._module.train()
        self._module.lazy_reset_grad()
        outputs = self._module(*(feeds[name] for name in self._module.input_names()))
        loss, norm = float(outputs[0]), float(outputs[2])
        if math.isfinite(loss) and math.isfinite(norm):
            self._exempt_from_decay(learning_rate)
            self._optimizer.set_learning_rate(learning_rate)
            self._optimizer.step()
        return Step(loss=loss, gradient_norm=norm)

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Trained parameters as they stand now, by name; views that later steps change."""
        return {p.name: self._state.parameters[p.name].data for p in self._parameters}

    def state(self) -> dict[str, NDArray[Any]]:
        """The API's own checkpoint file, as bytes: it gives the moments out in no other form."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / _CHECKPOINT
            self._api.CheckpointState.save_checkpoint(
                self._state, file, include_optimizer_state=True
            )
            return {_CHECKPOINT: np.fromfile(file, dtype=np.uint8)}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from what `state` returned, here or in another process."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / _CHECKPOINT
            state[_CHECKPOINT].tofile(file)
            self._open(file)

    def _open(self, checkpoint: Path) -> None:
        self._state = self._api.CheckpointState.load_checkpoint(checkpoint)
        self._module = self._api.Module(
            self._folder / "training_model.onnx", self._state, session_options=self._options
        )
        self._optimizer = self._api.Optimizer(self._folder / "optimizer_model.onnx", self._module)

    def _exempt_from_decay(self, learning_rate: float) -> None:
        """Undo beforehand the decay that the optimizer graph applies to every parameter.

        It multiplies each by 1 − learning_rate · weight_decay before it does anything else.
        """
        kept = 1.0 - learning_rate * self._weight_decay
        for parameter in self._parameters:
            if not parameter.decay:
                data = self._state.parameters[parameter.name].data
                data /= kept


__all__ = ["OnnxRuntimeTrainingEngine"]
