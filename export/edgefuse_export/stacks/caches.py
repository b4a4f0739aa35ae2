"""Keys and values from outside, as prefix tuning gives them, among the arguments of a layer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

PLACE = "layer_idx"
"""What transformers calls a layer's place, by which it finds the layer's part of a cache."""


class Kept(NamedTuple):
    """A layer's own part of a cache.

    Attributes:
        keys: Keys of what was there before, (batch, heads, length, head size).
        values: Values, likewise.
    """

    keys: Tensor
    values: Tensor


def cache_of(layers: Sequence[Kept]) -> DynamicCache:
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


def kept_in(cache: Cache, index: int) -> Kept:
    """What a layer keeps in a cache."""
    layer: Any = cache.layers[index]
    return Kept(layer.keys, layer.values)


class LayerCache(DynamicCache):
    """A cache of one layer, wherever the layer believes to be."""

    def __init__(self, kept: Kept) -> None:
        """Begin with what was there before."""
        super().__init__()
        super().update(*kept, 0)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,  # noqa: ARG002
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of what was there before and of new tokens."""
        return super().update(key_states, value_states, 0, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Count of tokens that are kept."""
        return super().get_seq_length(0)


def taken_apart(given: Any, layer: nn.Module) -> Any:
    """Arguments of a layer, of whose caches only the layer's own part is left.

    Args:
        given: Positional arguments and options.
        layer: The layer.
    """
    return _mapped(given, Cache, lambda cache: _part(cache, layer))


def rebuilt(given: Any) -> Any:
    """What `taken_apart` gave as a layer takes it."""
    return _mapped(given, Kept, LayerCache)


def _mapped(given: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    arguments, options = given
    return (
        tuple(change(value) if isinstance(value, kind) else value for value in arguments),
        {key: change(v) if isinstance(v, kind) else v for key, v in options.items()},
    )


def _part(cache: Cache, layer: nn.Module) -> Kept | None:
    """A layer's part of a cache; None where it has none."""
    place = next((getattr(m, PLACE) for m in layer.modules() if hasattr(m, PLACE)), None)
    if place is None or place >= len(cache.layers):
        return None
    return kept_in(cache, place) if getattr(cache.layers[place], "keys", None) is not None else None
