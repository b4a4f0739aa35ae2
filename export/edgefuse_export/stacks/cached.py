"""The three parts of a model that keeps keys and values, as modules that are traced alone.

Each gives a scalar first, as the parts that are differentiated do; here it says nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import Cache

from edgefuse_export.stacks.caches import Kept, cache_of, kept_in
from edgefuse_export.stacks.calls import Call, Entrance, NoStackError, Stack, enter, leave, replaced

Sizes: TypeAlias = Sequence[tuple[int, int]]
"""Heads and sizes of a layer's keys and of its values."""


class Text(NamedTuple):
    """New tokens behind others.

    Attributes:
        input_ids: Token ids, (batch, new).
        attention_mask: Mask of the tokens before and of the new ones, (batch, past + new).
        position_ids: Places of the new tokens, (batch, new).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    @classmethod
    def any(cls, rows: int, past: int, new: int) -> "Text":
        """Texts of a shape, without padding."""
        ids = torch.zeros((rows, new), dtype=torch.int64)
        places = torch.arange(past, past + new).repeat(rows, 1)
        return cls(ids, torch.ones((rows, past + new), dtype=torch.int64), places)

    def enter(self, decoder: nn.Module, stack: Stack, sizes: Sequence[Sizes]) -> Entrance:
        """Run a decoder up to its stack.

        Args:
            decoder: A module of a text's tensors and a cache.
            stack: The layers, whose own work is left out.
            sizes: What each layer keeps of a token.
        """
        rows, new = self.input_ids.shape
        past = self.attention_mask.shape[1] - new
        kept = [
            Kept(*(torch.zeros(rows, heads, past, size) for heads, size in one)) for one in sizes
        ]
        return enter(decoder, stack, (*self, cache_of(kept)))


class CachedEntrance(nn.Module):
    """What is before the stack: text → (a scalar, the first layer's input, what layers share).

    Attributes:
        model: The model.
    """

    def __init__(self, decoder: nn.Module, stack: Stack, sizes: Sequence[Sizes]) -> None:
        """Take it from a decoder."""
        super().__init__()
        self.model = decoder.model
        # In a tuple, so that their tensors keep the model's names:
        self._run = (decoder, stack, tuple(sizes))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """Map the tensors of a `Text`."""
        entrance = Text(input_ids, attention_mask, position_ids).enter(*self._run)
        # Copies: what is given as it came would be no output of a graph.
        contexts = [context.clone() for context in entrance.contexts]
        return torch.zeros(()), entrance.hidden, *contexts


class CachedLayer(nn.Module):
    """A layer: (input, keys, values, contexts) → (a scalar, output, keys, values).

    Attributes:
        model: The layer.
    """

    def __init__(self, layer: nn.Module, call: Call, index: int) -> None:
        """Take a layer, how it is called, and its place in the stack."""
        super().__init__()
        self.model = layer
        self._call, self._index = call, index

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, *contexts: Tensor
    ) -> tuple[Tensor, ...]:
        """Map input, (batch, new, hidden), what is kept of the tokens before, and contexts."""
        cache = cache_of([Kept(keys, values)] * (self._index + 1))
        with _given(self.model, cache):
            output = self._call.of(self.model, hidden, contexts)
        kept = kept_in(cache, self._index)
        return torch.zeros(()), output, kept.keys, kept.values


class LastToken(nn.Module):
    """What is behind the stack: the last layer's output → (a scalar, logits of the last token).

    Attributes:
        model: The model.
    """

    def __init__(self, decoder: nn.Module, stack: Stack) -> None:
        """Take it from a decoder."""
        super().__init__()
        self.model = decoder.model
        self._run = (decoder, stack)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden states, (batch, new, hidden), to (batch, 1, vocabulary)."""
        decoder, stack = self._run
        last = hidden[:, -1:]
        ids = torch.zeros_like(last[:, :, 0], dtype=torch.int64)
        text = Text(ids, torch.ones_like(ids), torch.zeros_like(ids))
        return torch.zeros(()), leave(decoder, stack, last, (*text, cache_of([])))


@contextmanager
def _given(layer: nn.Module, cache: Cache) -> Iterator[None]:
    """Let a layer take a cache in the place of the one that it is called with.

    Raises:
        NoStackError: It is called without any.
    """
    run = layer.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        leaves, structure = pytree.tree_flatten((arguments, options))
        if not any(isinstance(leaf, Cache) for leaf in leaves):
            raise NoStackError("a layer takes no keys and values")
        leaves = [cache if isinstance(leaf, Cache) else leaf for leaf in leaves]
        arguments, options = pytree.tree_unflatten(leaves, structure)
        return run(*arguments, **options)

    with replaced([layer], [forward]):
        yield
