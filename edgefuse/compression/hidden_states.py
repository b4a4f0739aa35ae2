"""What every layer of a model makes of a batch."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def hidden_states(output: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Every layer's (tokens, p), without padding; the embeddings, which stay, left out.

    Args:
        output: Of a model that was called with `output_hidden_states`.
        batch: What it was called with.

    Returns:
        The top layer's last; an encoder's before its decoder's.
    """
    if "decoder_attention_mask" not in batch:
        mask = batch["attention_mask"].bool()
        return [state[mask] for state in output.hidden_states[1:]]
    encoder, decoder = batch["attention_mask"].bool(), batch["decoder_attention_mask"].bool()
    states = [state[encoder] for state in output.encoder_hidden_states[1:]]
    return states + [state[decoder] for state in output.decoder_hidden_states[1:]]
