"""Layers that compute the same of other tensors: a kind."""

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor, nn

from edgefuse_export.stacks.calls import Call, Slot

_PLACE = "layer_idx"
"""What transformers calls a layer's place: it finds the layer's part of a cache, and no more."""

_PLAIN = (bool, int, float, str, type(None))


def kinds_of(
    layers: Sequence[nn.Module], calls: Sequence[Call], *, differentiated: Sequence[bool]
) -> list[int]:
    """Number of the kind of each layer, from 0.

    Two layers are of one kind if they are made of the same modules with the same settings, have
    tensors of the same shapes of which the same train, and are called alike.

    Args:
        layers: The layers of a stack.
        calls: How each is called.
        differentiated: Whether the gradient of each one's input is wanted.
    """
    known: dict[Hashable, int] = {}
    kinds = []
    for layer, call, learns in zip(layers, calls, differentiated, strict=True):
        leaves = tuple(map(_leaf, call.leaves))
        signature = (_module(layer), leaves, str(call.structure), learns)
        kinds.append(known.setdefault(signature, len(known)))
    return kinds


def _module(layer: nn.Module) -> Hashable:
    return tuple(
        (
            name,
            type(module),
            tuple(
                (key, value)
                for key, value in sorted(vars(module).items())
                if key != _PLACE and not key.startswith("_") and _is_plain(value)
            ),
            tuple(
                (key, tuple(value.shape), value.dtype, value.requires_grad)
                for key, value in (*module._parameters.items(), *module._buffers.items())  # noqa: SLF001
                if value is not None
            ),
        )
        for name, module in layer.named_modules(remove_duplicate=False)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _leaf(leaf: Any) -> Hashable:
    assert not isinstance(leaf, Tensor)
    found: Hashable = leaf if isinstance(leaf, Slot) or _is_plain(leaf) else type(leaf).__qualname__
    return found
