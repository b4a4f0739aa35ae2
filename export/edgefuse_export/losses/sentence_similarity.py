"""Sentence similarity: losses of the cosines of a sentence encoder's embeddings.

Every distinct text of a batch is embedded once; rows say by indices which texts they compare.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse_export.losses.text_classification import cross_entropy

SCALE = 20.0
"""What cosines are multiplied by before the softmax, as in sentence-transformers."""

Pooling = Literal["mean", "cls", "lasttoken"]


class SentenceEncoder(nn.Module):
    """A transformer and the pooling of its last hidden states.

    Attributes:
        model: The transformer.
        pooling: What makes one vector of a text's hidden states, by sentence-transformers' names.
        normalize: Whether what inference gives has length 1.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, *, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids and mask, both (texts, tokens).

        Returns:
            Vectors of length 1, and what inference gives, detached; both (texts, hidden).
        """
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        pooled = pool(outputs.last_hidden_state, attention_mask, self.pooling)
        unit = F.normalize(pooled, dim=-1)
        return unit, (unit if self.normalize else pooled).detach()


class InBatchNegatives(SentenceEncoder):
    """Mean cross-entropy of finding each anchor's positive among the candidates of a batch.

    sentence-transformers' `MultipleNegativesRankingLoss` with cosines; van den Oord et al.,
    "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748, equation 4.
    """

    def forward(  # noqa: PLR0917 - a graph's inputs
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        anchors: Tensor,
        candidates: Tensor,
        labels: Tensor,
        comparable: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Map a batch of rows.

        Args:
            input_ids: Token ids of the texts, (texts, tokens).
            attention_mask: 1 where a token is none of padding, (texts, tokens).
            anchors: Which text each row begins from, (rows,).
            candidates: Texts to find, (candidates,).
            labels: Which candidate belongs to each row, (rows,).
            comparable: Whether a candidate is one to choose from for a row, (rows, candidates).

        Returns:
            The loss, a scalar, and the embeddings, (texts, hidden).
        """
        unit, embeddings = self.embed(input_ids, attention_mask)
        cosines = F.embedding(anchors, unit) @ F.embedding(candidates, unit).T
        scores = (SCALE * cosines).masked_fill(~comparable, torch.finfo(unit.dtype).min)
        return cross_entropy(scores, labels), embeddings


class SquaredCosineError(SentenceEncoder):
    """Mean squared error of cosines: sentence-transformers' `CosineSimilarityLoss`."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        firsts: Tensor,
        seconds: Tensor,
        scores: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Map a batch of rows.

        Args:
            input_ids: Token ids of the texts, (texts, tokens).
            attention_mask: 1 where a token is none of padding, (texts, tokens).
            firsts: First text of each row, (rows,).
            seconds: Second text of each row, (rows,).
            scores: Cosine that they shall have, (rows,).

        Returns:
            The loss, a scalar, and the embeddings, (texts, hidden).
        """
        unit, embeddings = self.embed(input_ids, attention_mask)
        cosines = (F.embedding(firsts, unit) * F.embedding(seconds, unit)).sum(dim=-1)
        return (cosines - scores).square().mean(), embeddings


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Make one vector of each text.

    Args:
        hidden: Hidden states, (texts, tokens, hidden).
        attention_mask: 1 where a token is none of padding, which is on the right; (texts, tokens).
        pooling: The mean of all tokens, the first, or the last one.

    Returns:
        Vectors, (texts, hidden).
    """
    if pooling == "cls":
        return hidden[:, 0]
    counts = attention_mask.sum(dim=1, keepdim=True)
    if pooling == "mean":
        weights = attention_mask.to(hidden.dtype) / counts.clamp(min=1)
    else:
        places = torch.arange(hidden.shape[1], device=hidden.device)
        weights = (places == counts - 1).to(hidden.dtype)
    return (weights.unsqueeze(1) @ hidden).squeeze(1)
