"""A causal language model that goes on behind tokens whose keys and values it has."""

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache

_PLACES = "position_ids"
_CACHE = "past_key_values"


class Decoder(nn.Module):
    """The logits of new tokens, by the keys and values of those before them.

    Attributes:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take a model, whose `forward` takes a cache (`takes_cache`)."""
        super().__init__()
        self.model = model
        self._has_places = _PLACES in _parameters(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: "Cache"
    ) -> Tensor:
        """Map new tokens to logits, (batch, new, vocabulary); the cache takes what they leave.

        Args:
            input_ids: Token ids, (batch, new).
            attention_mask: Mask of the tokens before and of the new ones, (batch, past + new).
            position_ids: Places of the new tokens in their texts, (batch, new).
            cache: Keys and values of the tokens before.
        """
        options: dict[str, Any] = {_PLACES: position_ids} if self._has_places else {}
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits
        return logits


def takes_cache(model: nn.Module) -> bool:
    """Whether a model's `forward` takes keys and values of tokens before."""
    return _CACHE in _parameters(model)


def _parameters(model: nn.Module) -> "dict[str, inspect.Parameter]":
    return dict(inspect.signature(type(model).forward).parameters)
