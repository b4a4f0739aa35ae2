"""How a model calls the layers of its stack, as data: so that each can be called alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Slot:
    """A place among a layer's arguments: for its input, or for a tensor that layers share.

    Attributes:
        context: Index of the shared tensor among those of the layer; None for the layer's input.
    """

    context: int | None = None


@dataclass(frozen=True)
class Call:
    """The arguments of a layer, with slots where tensors were.

    Attributes:
        leaves: Slots, and everything that is no tensor, as pytree flattens them.
        structure: What pytree puts them back into.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec

    def of(self, layer: nn.Module, hidden: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Call a layer.

        Args:
            layer: The layer, or one of its kind.
            hidden: Its input, (batch, sequence, hidden).
            contexts: Tensors that the layers share, those of this one.
        """
        filled = [
            leaf
            if not isinstance(leaf, Slot)
            else hidden
            if leaf.context is None
            else contexts[leaf.context]
            for leaf in self.leaves
        ]
        arguments, options = pytree.tree_unflatten(filled, self.structure)
        return first_of(layer(*arguments, **options))


@dataclass(frozen=True)
class Entrance:
    """What reaches a stack.

    Attributes:
        hidden: Input of the first layer.
        contexts: Tensors that layers share, such as masks and rotary angles, each once.
        calls: How each layer is called.
        places: For each layer, indices of its contexts among all.
    """

    hidden: Tensor
    contexts: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    places: tuple[tuple[int, ...], ...]


class NoStackError(Exception):
    """A model's layers are not called one after the other; the message says what they do."""


def enter(module: nn.Module, layers: Sequence[nn.Module], batch: Sequence[Tensor]) -> Entrance:
    """Run a module up to its stack.

    Args:
        module: A module that calls each of the layers once, in order.
        layers: The layers, whose own work is left out.
        batch: Arguments of the module.

    Raises:
        NoStackError: A layer is called twice, or not at all.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def reached(index: int) -> Any:
        def forward(*arguments: Any, **options: Any) -> Any:
            if len(seen) != index:
                raise NoStackError(f"layer {index} is call {len(seen)} of the stack")
            seen.append((arguments, options))
            return _hidden_in(arguments, options)

        return forward

    with replaced(layers, [reached(index) for index in range(len(layers))]):
        module(*batch)
    if len(seen) < len(layers):
        raise NoStackError(f"{len(seen)} of {len(layers)} layers are called")
    return _entrance(seen)


def leave(
    module: nn.Module, layers: Sequence[nn.Module], hidden: Tensor, batch: Sequence[Tensor]
) -> Any:
    """Run a module as if its stack had given some output.

    Args:
        module: A module that calls each of the layers.
        layers: The layers, whose own work is left out.
        hidden: Output of the last of them.
        batch: Arguments of the module.

    Returns:
        What the module returns.
    """

    def passed(*arguments: Any, **options: Any) -> Any:
        return _hidden_in(arguments, options)

    def last(*_: Any, **__: Any) -> Any:
        return hidden

    with replaced(layers, [*[passed] * (len(layers) - 1), last]):
        return module(*batch)


@contextmanager
def replaced(layers: Sequence[nn.Module], forwards: Sequence[Any]) -> Iterator[None]:
    """Let layers compute something else for a while.

    Where a layer gives more than its output, the model reads it by its place in a tuple: so what
    stands in for it does too.
    """
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def first_of(output: Any) -> Tensor:
    """The hidden states among what a layer returns."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _hidden_in(arguments: Sequence[Any], options: dict[str, Any]) -> Tensor:
    found: Tensor = arguments[0] if arguments else options["hidden_states"]
    return found


def _entrance(seen: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> Entrance:
    hidden = _hidden_in(*seen[0])
    contexts: list[Tensor] = []
    calls, places = [], []
    for given in seen:
        inside = _hidden_in(*given)
        if inside is not hidden:  # layers pass it on as it is
            raise NoStackError("something is computed between the layers")
        leaves, structure = pytree.tree_flatten(given)
        own: list[int] = []
        marked: list[Any] = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                marked.append(leaf)
            elif leaf is inside:
                marked.append(Slot())
            else:
                place = next((i for i, known in enumerate(contexts) if known is leaf), None)
                if place is None:
                    place = len(contexts)
                    contexts.append(leaf)
                if place not in own:
                    own.append(place)
                marked.append(Slot(own.index(place)))
        calls.append(Call(tuple(marked), structure))
        places.append(tuple(own))
    return Entrance(hidden, tuple(contexts), tuple(calls), tuple(places))
