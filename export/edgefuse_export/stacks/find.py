"""Where a model's stack of layers is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgefuse_export.silence import silence
from edgefuse_export.stacks.calls import Entrance, NoStackError, enter
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import example

_FEWEST = 2
"""Layers below which nothing is gained by taking them apart."""


@dataclass(frozen=True)
class Stack:
    """The layers that a model goes through, one after the other.

    Attributes:
        name: Name of their list in the model.
        layers: The layers, the first one first.
    """

    name: str
    layers: tuple[nn.Module, ...]

    def prefix(self, index: int) -> str:
        """What the names of a layer's tensors begin with in the model."""
        return f"{self.name}.{index}."


def find_stack(task: ExportTask, model: nn.Module, *, vocabulary: int) -> Stack | str:
    """The stack of a model, or why it has none, as the end of a sentence.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode.
        vocabulary: Token ids are below it.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) >= _FEWEST
    ]
    outer = [
        (name, module)
        for name, module in lists
        if not any(name.startswith(f"{other}.") for other, _ in lists)
    ]
    if not outer:
        return "it has no list of layers"
    name, module = max(outer, key=lambda one: sum(p.numel() for p in one[1].parameters()))
    batch = tuple(example(task, (2, 4), vocabulary=vocabulary).values())
    try:
        entered(task, model, tuple(module), batch)
    except NoStackError as error:
        return str(error)
    return Stack(name, tuple(module))


def entered(
    task: ExportTask, model: nn.Module, layers: Sequence[nn.Module], batch: Sequence[Tensor]
) -> Entrance:
    """What reaches a model's stack of a batch; gradients can be taken of it."""
    with silence("transformers"), torch.enable_grad():
        return enter(task.loss(model), layers, batch)
