"""Text-to-text generation: next-token loss of an encoder-decoder of transformers."""

from torch import Tensor, nn

from edgefuse_export.losses.next_token import next_token_loss


class DecoderLoss(nn.Module):
    """Next-token loss of a model with an encoder and a decoder, as a function of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map a batch of prompts and completions.

        Args:
            input_ids: Token ids of the prompts, of shape (batch, prompt).
            attention_mask: 1 for a token of a prompt and 0 for padding, of the same shape.
            decoder_input_ids: What the decoder reads, of shape (batch, tokens).
            labels: Token id to follow each, or `IGNORED`, of the same shape.

        Returns:
            The loss, a scalar, and the logits, of shape (batch, tokens, vocabulary).
        """
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits
        return next_token_loss(logits, labels), logits.detach()
