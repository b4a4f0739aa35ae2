"""Text classification: one of several labels for a text."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgefuse_devices.errors import ModelError
from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import brings_head, check_architecture
from edgefuse_export.tasks.classes import (
    LABELS_HELP,
    NEW_HEAD,
    NUM_LABELS_HELP,
    Labels,
    find_labels,
    head_options,
)
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.tasks.labels import labels_of_rows
from edgefuse_runtime.tasks.text_classification import TARGET, TextClassification

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class TextClassificationExport:
    """How a text classifier is traced.

    Attributes:
        task: Labels of the classes.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    targets: ClassVar[tuple[str, ...]] = (TARGET,)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "SEQ_CLS"
    training_api_loss: ClassVar[str | None] = "CrossEntropyLoss"

    task: TextClassification

    def model_options(self) -> dict[str, Any]:
        """Count and names of the classes."""
        return head_options(self.task.labels, problem_type="single_label_classification")

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean cross-entropy and logits."""
        from edgefuse_export.losses.text_classification import CrossEntropy

        return CrossEntropy(model)

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""


@dataclass(frozen=True)
class WantedTextClassification(WantedTask):
    """Text classification as a user asks for it.

    Attributes:
        labels: Names of the classes in the order of the logits, or a set of the labels that rows
            have, whose order the head decides, or a file of either; None for the head's own.
        num_labels: Count of classes called 0, 1, 2 …, instead of `labels`.
    """

    name: ClassVar[str] = "text-classification"
    summary: ClassVar[str] = "a label for a text"

    labels: Labels = option(None, help=LABELS_HELP, type=Path, shown="")
    num_labels: int | None = option(None, help=NUM_LABELS_HELP, shown="")

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The classes of the head that a model brings, or else those that are asked for.

        Raises:
            ModelError: The model cannot classify in a graph, or its head has other classes.
            InputError: The classes are not known.
        """
        check_architecture(facts.config, facts.name, TextClassification)
        check_head(facts.config, facts.name)
        labels = find_labels(facts, self.labels, self.num_labels, TextClassification)
        return TextClassificationExport(TextClassification(labels=labels))

    def of_rows(self, file: Path) -> Self:
        """The same, with the labels that rows have."""
        if self.labels is None and self.num_labels is None:
            return replace(self, labels=labels_of_rows(file))
        return self


_UNSUPPORTED = {
    "multi_label_classification": "several labels a text",
    "regression": "numbers (regression)",
}


def check_head(config: "PretrainedConfig", name: str) -> None:
    """Refuse a head for another problem.

    Raises:
        ModelError: It is for several labels at once, or for numbers.
    """
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "")
    if brings_head(config, TextClassification) and problem in _UNSUPPORTED:
        raise ModelError(
            f"{name} was saved with a head for {_UNSUPPORTED[problem]}, and EdgeFuse trains "
            "classifiers of one label a text so far",
            f"Choose a classifier of one label a text, or {NEW_HEAD}",
        )
