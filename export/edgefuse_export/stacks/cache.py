"""Keys and values of the tokens before, as transformers' layers take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class KeysAndValues:
    """What the attention of a layer keeps of tokens.

    Attributes:
        keys: Keys, (batch, heads, tokens, size).
        values: Values, of the same shape but for the size.
    """

    keys: Tensor
    values: Tensor


def cache_of(layers: Sequence[KeysAndValues]) -> DynamicCache:
    """A cache that grows in every layer: one with a window, too, keeps what has left it.

    Args:
        layers: What each layer keeps, the first layer's first.
    """
    cache = DynamicCache()
    for kept in layers:
        layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(kept.keys, kept.values)
        layer.keys, layer.values = kept.keys, kept.values
        cache.layers.append(layer)
    return cache


def kept_in(cache: DynamicCache, index: int) -> KeysAndValues:
    """What a layer keeps in a cache."""
    layer: Any = cache.layers[index]
    return KeysAndValues(layer.keys, layer.values)
