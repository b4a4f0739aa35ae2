"""The engine seam: forward, backward and optimizer over the files of a bundle.

An engine is one file here, one in `edgefuse_export.engines`, and an entry in each of the two lists.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import RunError
from edgefuse_runtime.data.batching import Feeds, LearnedTokens
from edgefuse_runtime.engines.row_cache import RowCache
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.optimizer import Optimizer

Tensors = dict[str, NDArray[Any]]
"""Arrays by name."""


@dataclass(frozen=True)
class Step:
    """What a training step reports.

    Attributes:
        loss: Mean loss over the batch, before the update.
        gradient_norm: Global norm before clipping, fused rows weighed by 1/√n.
    """

    loss: float
    gradient_norm: float


class Part(NamedTuple):
    """A part of a step's rows.

    Attributes:
        feeds: Arrays of the part by graph-input name, targets among them.
        share: Part of the terms of the step's loss that are in it; all of them are 1.
    """

    feeds: Feeds
    share: float


@dataclass(frozen=True)
class Training:
    """What an engine trains: what it has to know of a bundle, and how to go about it.

    Attributes:
        folder: The bundle's directory.
        parameters: What trains.
        frozen: What does not train, by name, mapped from its file.
        optimizer: The optimizer.
        mask: Which part of the gradients counts; None for all of them.
        padding_id: Token id that pads `input_ids`.
        threads: Threads to compute with.
        token_ids: Every token id that training will see, in any order: an engine may leave out what
            the others would cost, with the same result. None means all of them.
        seed: Seed of what is drawn at every step.
        accumulates: Whether steps come in parts, which takes memory for one gradient more.
        learned_tokens: Which tokens the task's loss of a batch is the mean over; gives None where
            it is no such mean.
        kept_layers: Count of layers, from the last one down, whose insides are kept for the
            backward pass, where the engine can compute them anew.
        row_cache: Where the engine keeps what frozen layers give for a row, if `keeps_rows`; None
            to compute it every time.
    """

    folder: Path
    parameters: Sequence[Parameter]
    frozen: Mapping[str, NDArray[Any]]
    optimizer: Optimizer
    mask: GradientMask | None
    padding_id: int
    threads: int
    token_ids: NDArray[np.int64] | None = None
    seed: int = 0
    accumulates: bool = False
    learned_tokens: Callable[[Feeds], LearnedTokens | None] = lambda _: None
    kept_layers: int = 0
    row_cache: RowCache | None = None

    @property
    def initial(self) -> Path:
        """The safetensors file of the trained parameters before the first step."""
        return self.folder / "trainable.safetensors"


class Engine(Protocol):
    """Forward, backward and optimizer over a bundle."""

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        """Train on one batch; one whose loss or gradient is not finite changes nothing.

        Args:
            feeds: Arrays of the batch by graph-input name, targets among them.
            learning_rate: Learning rate of the step.
        """
        ...

    def step_in_parts(self, parts: Sequence[Part], learning_rate: float) -> Step:
        """Train on a batch that comes in parts: by the gradients' mean, weighed by their shares.

        What is not finite changes nothing. An engine whose spec says that it does not accumulate is
        never asked to.

        Args:
            parts: The parts; more than one only if the engine was opened to accumulate.
            learning_rate: Learning rate of the step.
        """
        ...

    def gradients(self, feeds: Feeds) -> tuple[Step, Tensors]:
        """Loss and gradients of a batch as the parameters stand; nothing moves.

        Args:
            feeds: Arrays of the batch by graph-input name, targets among them.

        Returns:
            What a step would report, and the gradients by parameter, unmasked and unclipped, which
            the next batch may overwrite; none where the engine does not give them out.
        """
        ...

    def parameters(self) -> Tensors:
        """Trained parameters as they stand now, by name, of the shapes in the manifest.

        Where it can, an engine returns views that later steps change.
        """
        ...

    def set_parameters(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Continue from other values of all trained parameters; the optimizer's states stay.

        Raises:
            RunError: A parameter is missing, or of another shape.
        """
        ...

    def state(self) -> Tensors:
        """Everything that `load_state` needs to go on bit for bit, views included."""
        ...

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from what `state` returned, here or in another process."""
        ...


def check_shapes(given: Mapping[str, NDArray[Any]], parameters: Sequence[Parameter]) -> None:
    """Refuse values that are not those of the trained parameters.

    Raises:
        RunError: A parameter is missing, or of another shape.
    """
    for parameter in parameters:
        name, shape = parameter.name, tuple(parameter.shape)
        if name not in given or given[name].shape != shape:
            what = f"has the shape {given[name].shape}" if name in given else "is missing"
            raise RunError(
                f"The parameter {name} {what}, and the bundle's has {shape}",
                "Give parameters that this bundle trained",
            )


@runtime_checkable
class EngineSpec(Protocol):
    """An engine that a bundle was exported for: a member of the manifest's union.

    Attributes:
        frees_rows: Whether the engine leaves out rows of embeddings whose tokens do not occur.
        no_accumulation: Why it cannot train on a batch in parts, as the end of a sentence; empty
            where it can.
    """

    frees_rows: ClassVar[bool]
    no_accumulation: ClassVar[str]

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """What the engine needs in a bundle, as paths in it."""
        ...

    @property
    def version(self) -> str:
        """Version of the engine's package that the bundle was exported with."""
        ...

    def installed(self) -> str:
        """Version of the engine's package on this machine."""
        ...

    @property
    def keeps_rows(self) -> bool:
        """Whether frozen layers come first, whose results for a row it can keep."""
        ...

    def layers_kept(self, budget: float, *, rows: int, tokens: int) -> tuple[int, float]:
        """Count of layers whose insides it keeps within a budget, and the bytes that these take.

        Args:
            budget: Bytes.
            rows: Rows that are computed at once.
            tokens: Tokens in each.
        """
        ...

    def refusal(
        self,
        *,
        rates: Collection[float],
        mask: GradientMask | None,
        optimizer: Optimizer,
        dropout: bool,
    ) -> str:
        """Why the engine cannot train so, as a sentence; empty where it can.

        Args:
            rates: Factors on the learning rate of parameters.
            mask: Which part of the gradients counts; None for all of them.
            optimizer: The optimizer.
            dropout: Whether activations are dropped.
        """
        ...

    def open(self, training: Training) -> Engine:
        """Make the engine, with its parameters at their start.

        Raises:
            BundleError: The engine's package is not installed here.
        """
        ...
