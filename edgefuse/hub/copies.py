"""Copies of a model: new modules around the same tensors, or around others."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def share(model: Model) -> Model:
    """Copy the modules of a model; the copy has the same parameters and buffers."""
    tensors = chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def with_tensors(model: Model, make: Callable[[Tensor], Tensor]) -> Model:
    """Copy a model around other tensors; tied parameters stay tied.

    Args:
        model: Model to copy, which is not changed.
        make: Function that gives a tensor in the place of each parameter and buffer.
    """
    parameters = {
        id(p): nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    buffers = {id(buffer): make(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, {**parameters, **buffers})
