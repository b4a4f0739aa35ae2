"""Question answering: mean cross-entropy of an answer's first and last token."""

from torch import Tensor, nn

from edgefuse_export.losses.text_classification import cross_entropy

Result = tuple[Tensor, Tensor, Tensor]


class SpanCrossEntropy(nn.Module):
    """Mean cross-entropy of the two ends of a span, as a function of tensors.

    As in transformers, an end is chosen among all tokens of a row, padding included.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> Result:
        """Map token ids and mask, both (batch, sequence), and positions, both (batch,).

        Returns:
            The loss, a scalar, and the logits of the first and of the last token of an answer, both
            of shape (batch, sequence).
        """
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return _loss(outputs.start_logits, outputs.end_logits, start_positions, end_positions)


class TypedSpanCrossEntropy(SpanCrossEntropy):
    """The same loss of a model that takes token types."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        start_positions: Tensor,
        end_positions: Tensor,
    ) -> Result:
        """Map what `SpanCrossEntropy` maps, and the types of the tokens, (batch, sequence)."""
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return _loss(outputs.start_logits, outputs.end_logits, start_positions, end_positions)


def _loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Result:
    loss = (cross_entropy(start_logits, starts) + cross_entropy(end_logits, ends)) / 2
    return loss, start_logits.detach(), end_logits.detach()
