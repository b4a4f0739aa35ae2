"""The length of texts in tokens: what a model takes, and what is chosen of it."""

from torch import nn
from transformers import PreTrainedModel

from edgefuse.hub.model import position_count
from edgefuse_devices.errors import InputError

_USUAL = 128
"""Count of tokens, unless the user or the model differs."""
_ENDLESS = 1 << 20
"""Count of tokens that a model without position embeddings takes, such as T5, XLNet and Bloom."""


def longest_sequence(model: PreTrainedModel) -> int:
    """Count the tokens that the position embeddings reach; RoBERTa's begin behind its padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return position_count(model.config) or _ENDLESS


def choose_length(given: int | None, longest: int, *, prefix: int = 0) -> int:
    """Choose the count of tokens that texts are cut to: 128, unless a user or the model differs.

    Args:
        given: The user's choice; None for none.
        longest: Count of tokens that the model takes.
        prefix: Count of these that stand before the text.

    Raises:
        InputError: The model does not take the length that is given, or any.
    """
    longest -= prefix
    if longest < 2:
        raise InputError(
            "What stands before the text leaves no position for it", "Give a lower --prefix-length"
        )
    length = min(_USUAL, longest) if given is None else given
    if not 2 <= length <= longest:
        taken = f", with {prefix} positions of a prefix before them" if prefix else ""
        raise InputError(
            f"--sequence-length {length} is outside 2 to {longest}, which the model takes{taken}",
            "Give one within that, or leave it out",
        )
    return length
