"""Token classification: mean cross-entropy of the tokens that have a class."""

import torch.nn.functional as F
from torch import Tensor, nn


class TokenCrossEntropy(nn.Module):
    """Mean cross-entropy of a token classifier of transformers, as a function of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map token ids, mask and labels, all (batch, sequence); negative labels do not count.

        Returns:
            The loss, a scalar, and the logits, of shape (batch, sequence, classes).
        """
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        counted = (labels >= 0).to(logits.dtype)
        # Spelled out, because torch's translation of nll_loss forgets the count that it divides by.
        log_probabilities = F.log_softmax(logits, dim=-1)
        right = log_probabilities.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        return -(right * counted).sum() / counted.sum(), logits.detach()
