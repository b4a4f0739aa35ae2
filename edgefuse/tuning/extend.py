"""Extension of a module in its place, so that its tensors keep their names."""

from functools import cache
from typing import Any

from torch import nn


def extend(module: nn.Module, extension: type, **parts: nn.Module) -> None:
    """Give a module further parts and another `forward`, in place; its tensors keep their names.

    Args:
        module: A module of any class.
        extension: A class whose `forward` may call `super().forward`.
        **parts: New submodules, by the names that `extension` reads.
    """
    for name, part in parts.items():
        module.add_module(name, part)
    kind: Any = type(module)
    module.__class__ = _extended(extension, kind, tuple(parts))


@cache
def _extended(extension: type, kind: type[nn.Module], parts: tuple[str, ...]) -> type:
    """One class for all modules that are extended alike, so that they are known to be alike."""
    name = f"{extension.__name__}{kind.__name__}"
    return type(name, (extension, kind), {"extended": (extension, parts)})


def extend_like(module: nn.Module, model: nn.Module) -> None:
    """Extend a module as another one is, if it is, in place; they share the added parts."""
    if extended := getattr(type(model), "extended", None):
        extension, names = extended
        extend(module, extension, **{name: model.get_submodule(name) for name in names})


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module has, or had before it was extended."""
    kind = type(module)
    while "extended" in vars(kind):
        _, kind = kind.__bases__
    return kind
