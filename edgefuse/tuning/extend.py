"""Layers that do something more, under the names that they have."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


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


def share(model: Model) -> Model:
    """A copy of a model's modules around the same parameters and buffers."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def with_tensors(model: Model, make: Callable[[Tensor], Tensor]) -> Model:
    """A copy of a model around other tensors; what is tied stays tied.

    Args:
        model: It is not changed.
        make: Gives a tensor in the place of each parameter and buffer.
    """
    parameters = {
        id(p): nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    buffers = {id(buffer): make(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, {**parameters, **buffers})
