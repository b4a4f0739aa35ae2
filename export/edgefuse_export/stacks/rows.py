"""Whether what the frozen layers of a stack give for a row depends on that row alone."""

import torch
from torch import Tensor, nn

from edgefuse_export.silence import silence
from edgefuse_export.stacks.calls import Stack
from edgefuse_export.stacks.find import entered
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import example

_ALONE, _AMONG = (1, 5), (3, 9)
"""(rows, tokens) of a row alone, and of a batch in which it is padded."""

_MASK = "attention_mask"
_TOLERANCE = 1e-4


def rows_are_apart(
    task: ExportTask, model: nn.Module, stack: Stack, *, lowest: int, vocabulary: int
) -> bool:
    """Whether the layers below one give the same for a row, alone or padded among others.

    A convolution that reads the padding beside a row does not, for instance.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode.
        stack: The layers of the model.
        lowest: Index of the layer; the count of layers for all.
        vocabulary: Token ids are below it.
    """
    alone, among = (example(task, s, vocabulary=vocabulary) for s in (_ALONE, _AMONG))
    rows, tokens = alone["input_ids"].shape
    for name in task.inputs:
        if alone[name].shape != (rows, tokens):
            return False
        among[name][:rows, :tokens] = alone[name]
    among[_MASK][:rows, tokens:] = 0
    found, beside = (
        _below(task, model, stack, lowest, tuple(batch.values())) for batch in (alone, among)
    )
    if found.shape[:2] != (rows, tokens) or beside.shape[:2] != among["input_ids"].shape:
        return False
    scale = float(found.abs().max())
    return torch.allclose(found, beside[:rows, :tokens], rtol=0, atol=_TOLERANCE * scale)


@torch.no_grad()
def _below(
    task: ExportTask, model: nn.Module, stack: Stack, lowest: int, batch: tuple[Tensor, ...]
) -> Tensor:
    """What enters a layer, or leaves the last one."""
    with silence("transformers"):
        entrance = entered(task, model, stack, batch)
        hidden = entrance.hidden
        for index in range(lowest):
            call, contexts = entrance.calls[index], entrance.of_layer(index)
            hidden = call.of(stack.layers[index], hidden, contexts)
    return hidden
