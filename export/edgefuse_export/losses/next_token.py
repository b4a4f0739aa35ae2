"""Next-token loss: mean cross-entropy of the token ids that count, for language models."""

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
    wanted = targets.clamp(min=0).unsqueeze(2)
    losses = logits.logsumexp(dim=2) - logits.gather(2, wanted).squeeze(2)
    weights = counted.to(logits.dtype)
    return (losses * weights).sum() / weights.sum()


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
