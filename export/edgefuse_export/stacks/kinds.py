"""Layers that compute the same of other tensors: a kind."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgefuse_export.silence import silence
from edgefuse_export.stacks.caches import PLACE
from edgefuse_export.stacks.calls import Call, Entrance, Stack, hashable, plain
from edgefuse_runtime.graph.base import Blocks


def forms_of(stack: Stack, base: Mapping[str, Blocks]) -> list[Hashable]:
    """For each layer, which of its matrices are kept in few bits, and how.

    Args:
        stack: The layers.
        base: Matrices in few bits, by their names in the model.
    """
    forms: list[Hashable] = []
    for index in range(len(stack.layers)):
        prefix = stack.prefix(index)
        forms.append(
            tuple(
                (name.removeprefix(prefix), blocks.precision, blocks.minimum is not None)
                for name, blocks in sorted(base.items())
                if name.startswith(prefix)
            )
        )
    return forms


def kinds_of(
    layers: Sequence[nn.Module],
    entrance: Entrance,
    *,
    differentiated: Sequence[bool],
    forms: Sequence[Hashable],
) -> list[int]:
    """Number of the kind of each layer, from 0.

    Two layers are of one kind if they are made of the same modules with the same settings, have
    tensors of the same shapes of which the same train and the same are kept in few bits, and are
    called alike. Their places in the stack may differ, unless they compute something of it.

    Args:
        layers: The layers of a stack.
        entrance: What reaches them.
        differentiated: Whether the gradient of each one's input is wanted.
        forms: What of each is kept in few bits, as `forms_of` gives it.
    """
    known: dict[Hashable, int] = {}
    kinds = []
    for index, (layer, learns, form) in enumerate(zip(layers, differentiated, forms, strict=True)):
        call, contexts = entrance.calls[index], entrance.of_layer(index)
        signature = (
            _module(layer),
            call.signature,
            tuple(map(_context, contexts)),
            learns,
            form,
            index if _computes_of_place(layer, call, entrance.hidden, contexts) else None,
        )
        kinds.append(known.setdefault(signature, len(known)))
    return kinds


def _module(layer: nn.Module) -> Hashable:
    return tuple(
        (
            name,
            type(module),
            tuple(
                (key, hashable(value))
                for key, value in sorted(vars(module).items())
                if key != PLACE and not key.startswith("_") and plain(value)
            ),
            tuple(
                (key, tuple(value.shape), value.dtype, value.requires_grad)
                for key, value in (*module._parameters.items(), *module._buffers.items())  # noqa: SLF001
                if value is not None
            ),
        )
        for name, module in layer.named_modules(remove_duplicate=False)
    )


def _context(context: Tensor) -> Hashable:
    """What of a shared tensor its graphs depend on: rows and tokens are the same for all layers."""
    return tuple(context.shape), context.dtype, context.requires_grad


def _computes_of_place(
    layer: nn.Module, call: Call, hidden: Tensor, contexts: Sequence[Tensor]
) -> bool:
    """Whether a layer gives something else at another place."""
    if not _placed(layer):
        return False
    with silence("transformers"), torch.no_grad():
        here = call.of(layer, hidden, contexts)
        with _moved(layer):
            there = call.of(layer, hidden, contexts)
    return not torch.allclose(here, there, equal_nan=True)


@contextmanager
def _moved(layer: nn.Module) -> Iterator[None]:
    """Let a layer believe for a while that it is at another place."""
    placed = [(module, getattr(module, PLACE)) for module in _placed(layer)]
    for module, place in placed:
        setattr(module, PLACE, 0 if place else 1)
    try:
        yield
    finally:
        for module, place in placed:
            setattr(module, PLACE, place)


def _placed(layer: nn.Module) -> list[nn.Module]:
    """The modules of a layer that know its place."""
    return [module for module in layer.modules() if hasattr(module, PLACE)]
