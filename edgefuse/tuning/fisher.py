"""Fisher information: how much the likelihood of the labels depends on a weight."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.tuning.way import Batch

_ROWS = 1024
"""Count of rows that are read at most, evenly spread over the data."""


def diagonal_fisher(
    model: PreTrainedModel,
    names: Sequence[str],
    rows: Sequence[Batch],
    loss: Callable[[PreTrainedModel, Batch], Tensor],
) -> dict[str, Tensor]:
    """Measure the empirical Fisher information's diagonal: 1/|D| Σ (∂ log p(y|x) / ∂w)².

    Xu et al., arXiv 2109.05687, equation 9; a row at a time, for squares of sums would be others.

    Args:
        model: A model of the task in evaluation mode.
        names: Names of the parameters to measure.
        rows: D, a batch of one row each; evenly spread ones of very many.
        loss: −log p(y|x) of a batch.

    Returns:
        Tensors of the parameters' shapes, by name.
    """
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    read = rows[:: -(-len(rows) // _ROWS)]
    for row in read:
        gradients = torch.autograd.grad(loss(model, row), parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.square())
    return {name: total / len(read) for name, total in zip(names, sums, strict=True)}


def largest(values: Mapping[str, Tensor], share: float) -> dict[str, np.ndarray]:
    """Find the entries that are among a share of all, the largest ones, by name."""
    entries = torch.cat([tensor.flatten() for tensor in values.values()])
    count = max(1, round(share * len(entries)))
    kept = torch.zeros(len(entries), dtype=torch.bool)
    kept[entries.topk(count).indices] = True
    ends = np.cumsum([tensor.numel() for tensor in values.values()])
    parts = np.split(kept.numpy(), ends[:-1])
    return {
        name: part.reshape(tensor.shape)
        for (name, tensor), part in zip(values.items(), parts, strict=True)
    }
