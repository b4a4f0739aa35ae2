"""Text classification: mean cross-entropy of a sequence classifier of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from optimum.exporters.tasks import TasksManager
from torch import Tensor, nn
from transformers import PretrainedConfig

from edgefuse_devices.errors import InputError
from edgefuse_export.tasks.classes import brings_head, check_architecture, choose_labels
from edgefuse_runtime.tasks.labels import read_labels
from edgefuse_runtime.tasks.text_classification import TARGET, TextClassification


class Loss(nn.Module):
    """Mean cross-entropy of a sequence classifier, as a function of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids and mask, both (batch, sequence), and labels (batch,).

        Returns:
            The loss, a scalar, and the logits, of shape (batch, classes).
        """
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        # Spelled out, because torch's translation of nll_loss forgets the count that it divides by.
        log_probabilities = F.log_softmax(logits, dim=-1)
        return -log_probabilities.gather(1, labels.unsqueeze(1)).mean(), logits.detach()


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

    def model_class(self) -> type[Any]:
        """`AutoModelForSequenceClassification`, by optimum."""
        kind: type[Any] = TasksManager.get_model_class_for_task(self.task.name)
        return kind

    def model_options(self) -> dict[str, Any]:
        """Count and names of the classes."""
        labels = self.task.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }

    def loss(self, model: nn.Module) -> Loss:
        """Mean cross-entropy and logits."""
        return Loss(model)

    def example(
        self, shape: tuple[int, int], *, vocabulary: int, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random token ids, a mask whose last row is half padding, and labels.

        Returns:
            int64 tensors: (batch, sequence), (batch, sequence) and (batch,).
        """
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(vocabulary, shape, generator=generator)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[-1, shape[1] // 2 :] = 0
        classes = len(self.task.labels)
        return input_ids, attention_mask, torch.randint(classes, shape[:1], generator=generator)


@dataclass(frozen=True)
class Classes:
    """Text classification as a user asks for it.

    Attributes:
        names: Names of the classes in the order of the logits, or a set of the labels that rows
            have, whose order the head decides; None for the classes of the head.
        count: Count of classes of a new head, where there are no names.
    """

    names: Sequence[str] | frozenset[str] | None
    count: int = 2

    @classmethod
    def of(cls, labels: Sequence[str] | frozenset[str] | PathLike[str] | str | int) -> Self:
        """Classes by their names, a file that has them, or their count.

        Args:
            labels: Names of the classes, a file of labelled rows or of labels, or a count of
                classes called 0, 1, 2 …

        Raises:
            InputError: There are fewer than two, or one comes twice.
            DataError: The file cannot be read.
        """
        if isinstance(labels, int):
            if labels < 2:
                raise InputError(f"{labels} classes leave nothing to learn", "Give at least 2")
            return cls([str(index) for index in range(labels)])
        if isinstance(labels, str | PathLike):
            return cls(read_labels(Path(labels)))
        if len(labels) < 2:
            raise InputError(f"{len(labels)} classes leave nothing to learn", "Give at least 2")
        if len(set(labels)) < len(labels):
            raise InputError("A class is named twice", "Give each class a name of its own")
        return cls(labels)

    def of_model(self, config: PretrainedConfig, name: str) -> TextClassificationExport:
        """The classes of the head that a model brings, or else those that are asked for.

        Raises:
            ModelError: The model cannot classify in a graph, or its head has other classes.
        """
        check_architecture(config, name)
        names = self.names
        if names is None:
            count = int(config.num_labels or 0) if brings_head(config) else self.count
            names = [str(index) for index in range(count)]
            return TextClassificationExport(TextClassification(labels=names))
        labels = choose_labels(config, names, name)
        return TextClassificationExport(TextClassification(labels=labels))
