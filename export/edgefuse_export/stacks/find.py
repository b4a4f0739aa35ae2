"""Where a model's stack of layers is."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from edgefuse_export.silence import silence
from edgefuse_export.stacks.calls import Entrance, NoStackError, Stack, enter, look_at
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import example

_FEWEST = 2
"""Layers below which nothing is gained by taking them apart."""

_SHAPES = ((2, 4), (3, 5))
"""(batch, sequence) of batches that a model is tried with."""


def find_stack(task: ExportTask, model: nn.Module, *, vocabulary: int) -> Stack | str:
    """The stack of a model, or why it has none, as the end of a sentence.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode.
        vocabulary: Token ids are below it.
    """
    if task.task.encoder_decoder:
        return "it is a pair of an encoder and a decoder"
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
    name, layers = max(outer, key=lambda one: sum(p.numel() for p in one[1].parameters()))
    if _share(layers):
        return "its layers share tensors"
    batches = [tuple(example(task, s, vocabulary=vocabulary).values()) for s in _SHAPES]
    try:
        with silence("transformers"), torch.no_grad():
            stack = look_at(task.loss(model), name, tuple(layers), batches[0])
        entrances = [entered(task, model, stack, batch) for batch in batches]
    except NoStackError as error:
        return str(error)
    one, other = ([call.signature for call in entrance.calls] for entrance in entrances)
    return stack if one == other else "its layers are given sizes of the batch as numbers"


def entered(task: ExportTask, model: nn.Module, stack: Stack, batch: Sequence[Tensor]) -> Entrance:
    """What reaches a model's stack of a batch; gradients can be taken of it."""
    with silence("transformers"), torch.enable_grad():
        return enter(task.loss(model), stack, batch)


def _share(layers: nn.ModuleList) -> bool:
    """Whether a tensor is in two layers."""
    tensors = [{id(t) for t in (*x.parameters(), *x.buffers())} for x in layers]
    return any(one & other for one, other in combinations(tensors, 2))
