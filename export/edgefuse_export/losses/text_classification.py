"""Text classification: mean cross-entropy of a sequence classifier of transformers."""

import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
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
