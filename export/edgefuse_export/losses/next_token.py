"""Next-token loss: mean cross-entropy of the token ids that count, for language models."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse_runtime.tasks.next_token import IGNORED


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the tokens that count of ln Σ exp(logits) − the logit of the token to follow.

    Written so, its gradient makes two tensors of the logits' size, the softmax and a one at each
    target; that of log_softmax makes four.

    Args:
        logits: Logits of shape (rows, tokens, vocabulary).
        targets: Token id to follow, or `IGNORED`, of shape (rows, tokens). One at least counts.
    """
    counted = targets != IGNORED
    weights = counted.to(logits.dtype)
    return (cross_entropy(logits, targets.clamp(min=0)) * weights).sum() / weights.sum()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each token: ln Σ exp(logits) − the logit of the token to follow.

    Args:
        logits: Logits of shape (rows, tokens, vocabulary).
        targets: Token id to follow, of shape (rows, tokens).
    """
    return logits.logsumexp(dim=2) - logits.gather(2, targets.unsqueeze(2)).squeeze(2)


class TokenLosses(nn.Module):
    """Loss of each token of a causal language model, whatever its input: the stack decides."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, targets: Tensor) -> Tensor:
        """Map token ids to follow to their losses, both (1, tokens)."""
        any_ids = torch.zeros_like(targets)
        logits = self.model(input_ids=any_ids, attention_mask=torch.ones_like(any_ids)).logits
        return cross_entropy(logits, targets)


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
