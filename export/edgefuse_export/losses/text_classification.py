"""Text classification: losses of a sequence classifier of transformers, by problem type."""

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, labels) and targets to a scalar."""


class Classifier(nn.Module):
    """The loss of a classifier of texts, as a function of tensors."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids and mask, both (batch, sequence), and targets.

        Returns:
            The loss, a scalar, and the logits, of shape (batch, labels).
        """
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return self.loss(logits, labels), logits.detach()


class PairClassifier(nn.Module):
    """The loss of a classifier of pairs of texts, which token type ids tell apart."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids, mask and token type ids, all (batch, sequence), and targets.

        Returns:
            The loss, a scalar, and the logits, of shape (batch, labels).
        """
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return self.loss(logits, labels), logits.detach()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy with the index of each row's label, (batch,)."""
    # Spelled out, because torch's translation of nll_loss forgets the count that it divides by.
    log_probabilities = F.log_softmax(logits, dim=-1)
    return -log_probabilities.gather(1, labels.unsqueeze(1)).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy with 1 for each label that holds, else 0, (batch, labels)."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def squared_error(logits: Tensor, scores: Tensor) -> Tensor:
    """Mean squared error of numbers, (batch, 1)."""
    return (logits - scores).square().mean()
