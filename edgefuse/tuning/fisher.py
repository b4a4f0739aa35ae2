"""Fisher information: how much the likelihood of the labels depends on a weight."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

_ROWS = 1024
"""What is read of the data at most, evenly spread over it."""


class Row(NamedTuple):
    """A labelled text.

    Attributes:
        input_ids: Its tokens.
        label: Index of its class.
    """

    input_ids: Sequence[int]
    label: int


def diagonal_fisher(
    model: PreTrainedModel, names: Sequence[str], rows: Sequence[Row]
) -> dict[str, Tensor]:
    """The empirical Fisher information's diagonal: 1/|D| Σ (∂ log p(y|x) / ∂w)².

    Xu et al., arXiv 2109.05687, equation 9; a row at a time, for squares of sums would be others.

    Args:
        model: A classifier in evaluation mode. Its gradients are overwritten.
        names: Of the parameters to measure.
        rows: D; of very many, some.

    Returns:
        By name, of the parameters' shapes.
    """
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    read = rows[:: -(-len(rows) // _ROWS)]
    for row in read:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits
        loss = F.cross_entropy(logits, torch.tensor([row.label]))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.square())
    return {name: total / len(read) for name, total in zip(names, sums, strict=True)}
