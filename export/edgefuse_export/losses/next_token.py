"""Next-token loss: mean cross-entropy of the token ids that count, for language models."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse_export.losses.cross_entropy import cross_entropy
from edgefuse_runtime.tasks.next_token import IGNORED


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of the cross-entropy over the tokens that count.

    Args:
        logits: Logits of shape (rows, tokens, vocabulary).
        targets: Token id to follow, or `IGNORED`, of shape (rows, tokens). One at least counts.
    """
    counted = targets != IGNORED
    weights = counted.to(logits.dtype)
    losses: Tensor = cross_entropy(logits, targets.clamp(min=0))[0]
    return (losses * weights).sum() / weights.sum()


class TokenLosses(nn.Module):
    """Loss of each token of a causal language model, whatever its input: the stack decides."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, targets: Tensor) -> Tensor:
        """Map token ids to follow to their losses, both (1, tokens)."""
        any_ids = torch.zeros_like(targets)
        logits = self.model(input_ids=any_ids, attention_mask=torch.ones_like(any_ids)).logits
        losses: Tensor = cross_entropy(logits, targets)[0]
        return losses


class CausalLoss(nn.Module):
    """Next-token loss of a causal language model, as a function of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids, mask and token ids to learn, all (batch, tokens).

        Returns:
            The loss, a scalar, and the logits, of shape (batch, tokens, vocabulary).
        """
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        # The targets move, not the logits: a slice of these would be padded in the backward pass.
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return next_token_loss(logits, targets), logits.detach()
