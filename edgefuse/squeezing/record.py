"""squeeze.json: settings and rounds, from which an interrupted squeeze goes on."""

import math
from pathlib import Path
from typing import Any

from msgspec import Struct

from edgefuse_devices import __version__
from edgefuse_devices.errors import InputError
from edgefuse_runtime.files.replace import write_json
from edgefuse_runtime.tasks.registry import figures_of
from edgefuse_runtime.tasks.task import Figure
from edgefuse_runtime.training.run import read_json

RECORD = "squeeze.json"

_FAILURES = 2  # after which a squeeze ends; each halves the cuts


class SqueezeSettings(Struct, frozen=True, kw_only=True):
    """How to squeeze.

    Attributes:
        max_drop: Hundredths of the task's first figure that may be lost, against the first round:
            points of accuracy, for example.
        budget: Part of the plain model's parameters that is small enough to end at; None ends only
            at the gap.
        step: Part of the chains' parameters that a round cuts, until one is not kept; then half.
        first_steps: Training steps before the first cut; None for three passes over the rows.
        steps: Training steps after a cut that exceeded the gap.
        batch_size: Rows in a training step.
        learning_rate: Peak of the learning rate in every round.
        auxiliary_rate: What the learning rate of auxiliary tensors is multiplied by.
        seed: Seed of the rows' order and of a head that the model lacks.
    """

    max_drop: float = 1.0
    budget: float | None = None
    step: float = 0.1
    first_steps: int | None = None
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-5
    auxiliary_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: A number is out of its range.
        """
        for name, holds, range_ in (
            ("max-drop", 0 <= self.max_drop < math.inf, "a number, 0 or more"),
            ("budget", self.budget is None or 0 < self.budget <= 1, "above 0, and 1 at most"),
            ("step", 0 < self.step < 1, "between 0 and 1"),
            ("first-steps", self.first_steps is None or self.first_steps >= 0, "0 or more"),
            ("steps", self.steps >= 0, "0 or more"),
            ("batch-size", self.batch_size >= 1, "1 or more"),
            ("learning-rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("auxiliary-rate", 0 < self.auxiliary_rate < math.inf, "a number above 0"),
            ("seed", 0 <= self.seed < 2**32, "between 0 and 2^32 - 1"),
        ):
            if not holds:
                value = getattr(self, name.replace("-", "_"))
                raise InputError(
                    f"--{name} {value:g} is not {range_}",
                    "`edgefuse squeeze --help` says what it is when left out",
                )


class Round(Struct, frozen=True, kw_only=True):
    """A round: bonds were cut (not in the first), the model was evaluated, and trained if need was.

    Attributes:
        parameters: Parameters of the whole model.
        figure: The task's primary figure on the validation rows, in the end.
        steps: Count of training steps.
        kept: Whether the loss of it stayed within the gap.
        measure: Name of the figure; empty for the task's first.
    """

    parameters: int
    figure: float
    steps: int
    kept: bool
    measure: str = ""


class SqueezeRecord(Struct, frozen=True, kw_only=True):
    """squeeze.json.

    Attributes:
        source: Name of the directory that was squeezed.
        chains: SHA-256 of each of the model's safetensors files.
        parameters_before: Parameters of the plain model, before any compression, fusing too.
        settings: How it was squeezed.
        train: SHA-256 of the training data.
        valid: SHA-256 of the validation data.
        task: What the model is for, as manifests have it.
        rounds: Rounds, each from the last one before it that was kept.
        edgefuse_version: Version of the EdgeFuse that began.
    """

    source: str
    chains: list[str]
    parameters_before: int
    settings: SqueezeSettings
    train: str
    valid: str
    task: dict[str, Any]
    rounds: list[Round] = []
    edgefuse_version: str = __version__

    @property
    def kept(self) -> int:
        """Index of the last round that was kept."""
        return max(index for index, one in enumerate(self.rounds) if one.kept)

    @property
    def measure(self) -> Figure:
        """What the rounds are judged by: the task's primary figure."""
        kinds = figures_of(self.task["name"])
        name = self.rounds[0].measure
        return next((kind for kind in kinds if kind.name == name), kinds[0])

    @property
    def failures(self) -> int:
        """How many rounds were not kept."""
        return sum(not one.kept for one in self.rounds)

    @property
    def goes_on(self) -> bool:
        """Whether another round follows, if anything can be cut."""
        return not self.rounds or (self.failures < _FAILURES and not self.small_enough)

    @property
    def excess(self) -> int:
        """Parameters by which the last round that was kept is above the budget."""
        return self.rounds[self.kept].parameters - int(
            (self.settings.budget or 0.0) * self.parameters_before
        )

    @property
    def small_enough(self) -> bool:
        """Whether the budget is reached."""
        return self.excess <= 0


def write_squeeze(directory: Path, record: SqueezeRecord) -> None:
    """Write squeeze.json, whole or not at all."""
    write_json(directory / RECORD, record)


def read_squeeze(directory: Path) -> SqueezeRecord:
    """Read squeeze.json.

    Raises:
        RunError: It is broken.
    """
    return read_json(directory / RECORD, SqueezeRecord)
