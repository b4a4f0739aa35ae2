"""Token classification: a tag for each word of a text."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.classes import (
    LABELS_HELP,
    NUM_LABELS_HELP,
    Labels,
    find_labels,
    head_options,
)
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.tasks.tagged_rows import tags_of_rows
from edgefuse_runtime.tasks.tagging import whole_scheme
from edgefuse_runtime.tasks.token_classification import TARGET, TokenClassification

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TokenClassificationExport:
    """How a token classifier is traced.

    Attributes:
        task: Tags of the classes.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    targets: ClassVar[tuple[str, ...]] = (TARGET,)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "TOKEN_CLS"
    training_api_loss: ClassVar[str | None] = None  # its cross-entropy takes one class a row
    needs_head: ClassVar[bool] = False

    task: TokenClassification

    def model_options(self) -> dict[str, Any]:
        """Count and names of the classes."""
        return head_options(self.task.labels)

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean cross-entropy of words, and logits of all tokens."""
        from edgefuse_export.losses.token_classification import TokenCrossEntropy

        return TokenCrossEntropy(model)

    def token_loss(self, model: "nn.Module") -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""


@dataclass(frozen=True)
class WantedTokenClassification(WantedTask):
    """Token classification as a user asks for it.

    Attributes:
        labels: Tags in the order of the logits, or a set of the tags that rows have, whose order
            the head decides, or a file of either; None for the head's own.
        num_labels: Count of classes called 0, 1, 2 …, instead of `labels`.
    """

    name: ClassVar[str] = "token-classification"
    summary: ClassVar[str] = "a tag for each word: names, places, slots of a command"
    splits_words: ClassVar[bool] = True

    labels: Labels = option(None, help=LABELS_HELP, type=Path, shown="")
    num_labels: int | None = option(None, help=NUM_LABELS_HELP, shown="")

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The tags of the head that a model brings, or else those that are asked for.

        Raises:
            ModelError: The model cannot tag words, or its head has other tags.
            InputError: The tags are not known.
        """
        check_architecture(facts.config, facts.name, TokenClassification)
        labels = find_labels(
            facts,
            self.labels,
            self.num_labels,
            TokenClassification,
            of_rows=tags_of_rows,
            arrange=whole_scheme,
        )
        return TokenClassificationExport(TokenClassification(labels=labels))

    def of_rows(self, file: Path) -> Self:
        """The same, with the tags that rows have."""
        if self.labels is None and self.num_labels is None:
            return replace(self, labels=tags_of_rows(file))
        return self
