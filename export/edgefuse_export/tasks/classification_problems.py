"""The problem types of text classification, as transformers, a loss and a head have them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.names import unknown
from edgefuse_export.tasks.architecture import brings_head
from edgefuse_export.tasks.classes import NEW_HEAD
from edgefuse_runtime.tasks.problems.registry import ProblemName
from edgefuse_runtime.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

DEFAULT_PROBLEM: ProblemName = "single-label"


@dataclass(frozen=True)
class ProblemType:
    """A problem type on the workstation's side.

    Attributes:
        title: What a head gives, in words.
        in_transformers: Name of the problem type in a configuration of transformers.
        loss: Name of the function in `edgefuse_export.losses.text_classification`.
        training_api_loss: Name of the same loss of onnxruntime-training; None where there is none
            that holds.
        has_labels: Whether logits stand for labels, of which a user may give names or a count.
    """

    title: str
    in_transformers: str
    loss: str
    training_api_loss: str | None
    has_labels: bool = True

    def loss_function(self) -> "Callable[[Tensor, Tensor], Tensor]":
        """The loss as a function of logits and targets."""
        from edgefuse_export.losses import text_classification

        function: Callable[[Tensor, Tensor], Tensor] = getattr(text_classification, self.loss)
        return function


PROBLEM_TYPES: Mapping[ProblemName, ProblemType] = {
    DEFAULT_PROBLEM: ProblemType(
        title="one label a text",
        in_transformers="single_label_classification",
        loss="cross_entropy",
        training_api_loss="CrossEntropyLoss",
    ),
    "multi-label": ProblemType(
        title="several labels a text",
        in_transformers="multi_label_classification",
        loss="binary_cross_entropy",
        training_api_loss=None,  # its BCEWithLogitsLoss takes logarithms of 0 for logits above 17
    ),
    "regression": ProblemType(
        title="a number (regression)",
        in_transformers="regression",
        loss="squared_error",
        training_api_loss="MSELoss",
        has_labels=False,
    ),
}
"""By the name that --problem-type has for them, as `edgefuse_runtime.tasks.problems` has them."""


def find_problem(
    config: "PretrainedConfig", name: str, wanted: str | None, task: type[Task]
) -> ProblemName:
    """Choose the problem type: the one that is asked for, or else the head's own.

    A configuration need not name one: a head of one logit is for numbers then, and another for
    labels, one or several a text.

    Args:
        config: Configuration of the model.
        name: Name of the model, for messages.
        wanted: Name of a problem type, which may be that of transformers; None for the head's,
            or single-label for a new head.
        task: Kind of the task.

    Raises:
        InputError: There is no problem type of that name.
        ModelError: The model was saved with a head for another one, or for several numbers.
    """
    chosen = None if wanted is None else _named(wanted)
    own = _of_head(config) if brings_head(config, task) else list(PROBLEM_TYPES)
    chosen = chosen or own[0]
    if chosen not in own:
        raise ModelError(
            f"{name} was saved with a head for {PROBLEM_TYPES[own[0]].title}, and "
            f"{PROBLEM_TYPES[chosen].title} is wanted",
            f"Export it with --problem-type {own[0]}, or {NEW_HEAD}",
        )
    if own == ["regression"] and config.num_labels != 1:
        raise ModelError(
            f"{name} was saved with a head for {config.num_labels} numbers at once",
            f"Choose a model for one number, or {NEW_HEAD}",
        )
    return chosen


def _named(name: str) -> ProblemName:
    for known, problem in PROBLEM_TYPES.items():
        if name in (known, problem.in_transformers):
            return known
    raise InputError(*unknown("problem type", name, list(PROBLEM_TYPES)))


def _of_head(config: "PretrainedConfig") -> list[ProblemName]:
    """The problem types that the head of a model may be for, the likeliest first."""
    labels = int(config.num_labels or 0)
    return [
        known
        for known, problem in PROBLEM_TYPES.items()
        if config.problem_type == problem.in_transformers
        or (config.problem_type is None and problem.has_labels == (labels > 1))
    ]
