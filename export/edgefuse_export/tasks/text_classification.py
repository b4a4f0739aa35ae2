"""Text classification: mean cross-entropy of a sequence classifier of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from optimum.exporters.tasks import TasksManager
from torch import Tensor, nn

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
