"""Layers that do something more, under the names that they have."""

from torch import nn


def extend(module: nn.Module, extension: type, **parts: nn.Module) -> None:
    """Give a module further parts and another `forward`, in place; its tensors keep their names.

    Args:
        module: Of any class, a subclass of `nn.Linear` or `Conv1D` say.
        extension: Has a `forward` that may call `super().forward`.
        **parts: New submodules, by the names that `extension` reads.
    """
    for name, part in parts.items():
        module.add_module(name, part)
    kind = type(module)
    module.__class__ = type(f"{extension.__name__}{kind.__name__}", (extension, kind), {})
