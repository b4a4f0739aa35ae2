"""How a model calls the layers of its stack, as data: so that each can be called alone."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgefuse_export.stacks.caches import rebuilt, taken_apart


@dataclass(frozen=True)
class Stack:
    """The layers that a model goes through, one after the other.

    Attributes:
        name: Name of their list in the model.
        layers: The layers, the first one first.
        returned: For each layer, the count of what it returns in a tuple, hidden states first; 0
            where it returns these alone.
    """

    name: str
    layers: tuple[nn.Module, ...]
    returned: tuple[int, ...]

    def prefix(self, index: int) -> str:
        """What the names of a layer's tensors begin with in the model."""
        return f"{self.name}.{index}."


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
            hidden: Hidden states that the layer takes, (batch, sequence, hidden).
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
        arguments, options = rebuilt(pytree.tree_unflatten(filled, self.structure))
        output = layer(*arguments, **options)
        states: Tensor = output if isinstance(output, Tensor) else output[0]
        return states

    @property
    def signature(self) -> Hashable:
        """What is the same for calls that are alike, whatever their tensors hold."""
        return tuple(map(_alike, self.leaves)), str(self.structure)


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

    def of_layer(self, index: int) -> list[Tensor]:
        """Contexts of a layer."""
        return [self.contexts[place] for place in self.places[index]]


def lowest_layer(stack: Stack, entrance: Entrance) -> int:
    """Index of the lowest layer whose input or tensors need a gradient; the count for none.

    Args:
        stack: The layers.
        entrance: What reached them with gradients enabled.
    """
    if any(output.requires_grad for output in (entrance.hidden, *entrance.contexts)):
        return 0
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in stack.layers]
    return trains.index(True) if any(trains) else len(trains)


class NoStackError(Exception):
    """A model's layers are not called one after the other; the message says what they do."""


def look_at(
    module: nn.Module, name: str, layers: Sequence[nn.Module], batch: Sequence[Tensor]
) -> Stack:
    """Run a module as it is, and see what its layers return.

    Args:
        module: A module that calls each of the layers once, in order.
        name: Name of their list in the model.
        layers: The layers.
        batch: Arguments of the module.

    Raises:
        NoStackError: They are called otherwise, or give each other more than hidden states.
    """
    called: list[int] = []
    returned: list[int] = []
    beside: list[Tensor] = []

    def hook(layer: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        called.append(next(index for index, one in enumerate(layers) if one is layer))
        given = pytree.tree_leaves((arguments, options))
        if any(tensor is leaf for tensor in beside for leaf in given):
            raise NoStackError("its layers give each other more than hidden states")
        alone = isinstance(output, Tensor)
        returned.append(0 if alone else len(output))
        if not alone:
            beside.extend(x for x in pytree.tree_leaves(output[1:]) if isinstance(x, Tensor))

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        module(*batch)
    finally:
        for handle in handles:
            handle.remove()
    if called != [*range(len(layers))]:
        raise NoStackError(_order(called, len(layers)))
    return Stack(name, tuple(layers), tuple(returned))


def enter(module: nn.Module, stack: Stack, batch: Sequence[Any]) -> Entrance:
    """Run a module up to its stack.

    Args:
        module: A module that calls each of the layers once, in order.
        stack: The layers, whose own work is left out.
        batch: Arguments of the module.

    Raises:
        NoStackError: Something is computed between the layers.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def reached(returned: int) -> Any:
        def forward(*arguments: Any, **options: Any) -> Any:
            seen.append((arguments, options))
            return _as_returned(_hidden_in(arguments, options), returned)

        return forward

    with replaced(stack.layers, [reached(returned) for returned in stack.returned]):
        module(*batch)
    return _entrance(stack, seen)


def leave(module: nn.Module, stack: Stack, hidden: Tensor, batch: Sequence[Any]) -> Any:
    """Run a module as if its stack had given some output.

    Args:
        module: A module that calls each of the layers.
        stack: The layers, whose own work is left out.
        hidden: Output of the last of them.
        batch: Arguments of the module.

    Returns:
        What the module returns.
    """

    def passed(returned: int) -> Any:
        def forward(*arguments: Any, **options: Any) -> Any:
            return _as_returned(_hidden_in(arguments, options), returned)

        return forward

    def last(*_: Any, **__: Any) -> Any:
        return _as_returned(hidden, stack.returned[-1])

    with replaced(stack.layers, [*map(passed, stack.returned[:-1]), last]):
        return module(*batch)


@contextmanager
def replaced(layers: Sequence[nn.Module], forwards: Sequence[Any]) -> Iterator[None]:
    """Let layers compute something else for a while."""
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def plain(value: Any) -> bool:
    """Whether a setting is a number, a text, or some of them."""
    if isinstance(value, tuple | list | frozenset):
        return all(map(plain, value))
    return isinstance(value, bool | int | float | str | None)


def hashable(value: Any) -> Hashable:
    """A plain setting as a key."""
    found: Hashable = tuple(map(hashable, value)) if isinstance(value, tuple | list) else value
    return found


def _alike(leaf: Any) -> Hashable:
    if isinstance(leaf, Slot):
        return leaf
    return hashable(leaf) if plain(leaf) else type(leaf).__qualname__


def _as_returned(hidden: Tensor, returned: int) -> Any:
    return (hidden, *[None] * (returned - 1)) if returned else hidden


def _hidden_in(arguments: Sequence[Any], options: dict[str, Any]) -> Tensor:
    found: Tensor = arguments[0] if arguments else options["hidden_states"]
    return found


def _order(called: Sequence[int], count: int) -> str:
    """What is wrong with the order in which layers are called."""
    if not called:
        return "its layers are not called"
    if len(called) > count and sorted({*called}) == [*range(count)]:
        return "its layers are gone through more than once"
    return "its layers are not called each once, one after the other"


def _entrance(stack: Stack, seen: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> Entrance:
    hidden = _hidden_in(*seen[0])
    contexts: list[Tensor] = []
    calls, places = [], []
    for layer, given in zip(stack.layers, seen, strict=True):
        if _hidden_in(*given) is not hidden:  # layers pass it on as it is
            raise NoStackError("something is computed between its layers")
        leaves, structure = pytree.tree_flatten(taken_apart(given, layer))
        own: list[int] = []
        marked: list[Any] = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                marked.append(leaf)
            elif leaf is hidden:
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
