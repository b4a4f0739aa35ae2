"""What is handed to export: a model, what of it trains, and where its multiplicities stand."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class FusedMLP:
    """Names of a fused block's tensors in the model's state dict.

    Attributes:
        neuron_axes: By the name of each of its tensors but b2, the axis along which neurons lie:
            0 for W1 (k, p), b1 (k,) and a gate's, 1 for W2 (p, k); one more in a stack of
            experts. Where gate and up are one matrix, neurons lie there twice over.
        down_weight: W2.
        multiplicity: P, of shape (k,), or (E, 1, k) of a stack of E experts.
    """

    neuron_axes: Mapping[str, int]
    down_weight: str
    multiplicity: str


class Loss(nn.Module):
    """Mean cross-entropy of a sequence classifier of transformers, as a function of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids and mask, both (batch, sequence), and labels (batch,).

        Returns:
            The loss, a scalar, and the logits, of shape (batch, labels).
        """
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        # Spelled out, because torch's translation of nll_loss forgets the count that it divides by.
        log_probabilities = F.log_softmax(logits, dim=-1)
        return -log_probabilities.gather(1, labels.unsqueeze(1)).mean(), logits.detach()
