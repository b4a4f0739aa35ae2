"""The one interface of both engines, and the choice between them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgefuse_runtime.bundle.bundle import Bundle

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Rows that go through the graph together.

    Attributes:
        inputs: Each of the manifest's `inputs`, int64 of shape (batch, sequence).
        labels: int64 of shape (batch,).
        tokens: Count of tokens that are not padding.
    """

    inputs: dict[str, NDArray[np.int64]]
    labels: NDArray[np.int64]
    tokens: int


@dataclass(frozen=True)
class Step:
    """What a training step reports.

    Attributes:
        loss: Mean cross-entropy over the batch, before the update.
        gradient_norm: Global norm before clipping, fused rows weighed by 1/√n.
    """

    loss: float
    gradient_norm: float


class Engine(Protocol):
    """Forward, backward and optimizer over a bundle."""

    def step(self, batch: Batch, learning_rate: float) -> Step:
        """Train on one batch."""
        ...

    def parameters(self) -> Tensors:
        """Trained parameters as they stand now, by name, of the shapes in the manifest.

        Where it can, an engine returns views that later steps change.
        """
        ...

    def state(self) -> Tensors:
        """Everything that `load_state` needs to go on bit for bit, views included."""
        ...

    def load_state(self, state: Tensors) -> None:
        """Continue from what `state` returned, here or in another process."""
        ...


def open_engine(
    bundle: "Bundle",
    *,
    threads: int,
    token_ids: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Engine:
    """Make the engine that the bundle was exported for, with its parameters at their start.

    Args:
        bundle: An opened bundle.
        threads: Threads to compute with.
        token_ids: Every token id that training will see, in any order: an engine may then leave
            out what the others would cost, with the same result. None means all of them.
        seed: Of what a way of tuning draws at every step.

    Raises:
        BundleError: The engine's package is not installed here.
    """
    if bundle.manifest.engine == "onnxruntime":
        from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415

        return OnnxRuntimeEngine(bundle, threads=threads, token_ids=token_ids, seed=seed)
    from edgefuse_runtime.engines.onnxruntime_training import (  # noqa: PLC0415
        OnnxRuntimeTrainingEngine,
    )

    return OnnxRuntimeTrainingEngine(bundle, threads=threads)
