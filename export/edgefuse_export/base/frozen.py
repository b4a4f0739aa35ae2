"""The frozen matrices of a model in few bits, and how much that changes what it computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgefuse_devices.errors import InputError
from edgefuse_export.base.blocks import quantize
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import example
from edgefuse_runtime.graph.base import BITS, BLOCK, Base, Blocks, Precision

_FEWEST_ROWS = 32
"""Rows below which a matrix stays as it is: next to others it takes no memory."""

_MEASURED_SHAPE = (4, 64)
"""(rows, tokens) of the batch that outputs are compared on."""

_MATRICES = (2, 3)
"""Axes of a matrix, and of a stack of experts' matrices."""


@dataclass(frozen=True)
class FrozenBase:
    """Matrices that do not train, in few bits.

    Attributes:
        blocks: Codes and scales by the names of the matrices in the model.
        record: What the manifest keeps of them.
    """

    blocks: Mapping[str, Blocks]
    record: Base


def quantize_frozen(
    task: ExportTask,
    model: nn.Module,
    precision: Precision,
    *,
    way: str,
    vocabulary: int,
    known: Callable[[NDArray[np.float32]], Blocks | None] = lambda _: None,
) -> FrozenBase:
    """Quantise every matrix of a model that does not train.

    The model is given what codes and scales stand for, in place: it is what graphs are compared
    with.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode; parameters that require a gradient train.
        precision: What codes are.
        way: Name of the way of tuning, for messages.
        vocabulary: Token ids are below it.
        known: Gives what a matrix is made of, where it is of codes and scales already; None else.

    Raises:
        InputError: Every matrix trains, or none has rows of whole blocks.
    """
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad and _is_matrix(p)}
    if not frozen:
        raise InputError(
            f"--base {precision} keeps matrices in {BITS[precision]} bits that do not train, and "
            f"--tune {way} leaves none whose rows are of whole blocks of {BLOCK}",
            "Choose --tune lora, or leave --base out",
        )
    batch = tuple(example(task, _MEASURED_SHAPE, vocabulary=vocabulary).values())
    float_loss, float_outputs = _computed(task, model, batch)
    blocks = {}
    with torch.no_grad():
        for name, parameter in frozen.items():
            matrix = parameter.numpy()
            blocks[name] = known(matrix) or quantize(matrix, precision)
            parameter.copy_(torch.from_numpy(blocks[name].floats()))
    loss, outputs = _computed(task, model, batch)
    record = Base(
        precision=precision,
        block=BLOCK,
        matrices=len(blocks),
        float_loss=float_loss,
        loss=loss,
        output_error=_distance(outputs, float_outputs),
    )
    return FrozenBase(blocks, record)


def _is_matrix(parameter: nn.Parameter) -> bool:
    shape = parameter.shape
    return len(shape) in _MATRICES and shape[-2] >= _FEWEST_ROWS and shape[-1] % BLOCK == 0


@torch.no_grad()
def _computed(
    task: ExportTask, model: nn.Module, batch: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """Loss and outputs of a batch."""
    loss, *outputs = task.loss(model)(*batch)
    return float(loss), outputs


def _distance(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """‖outputs − expected‖ / ‖expected‖, over all of them."""
    pairs = [(one.double(), other.double()) for one, other in zip(outputs, expected, strict=True)]
    rest = sum(float((one - other).square().sum()) for one, other in pairs)
    whole = sum(float(other.square().sum()) for _, other in pairs)
    return (rest / whole) ** 0.5 if whole else 0.0
