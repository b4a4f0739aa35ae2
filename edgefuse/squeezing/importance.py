"""How much a task's loss depends on each direction of a bond.

A factor of one before a direction takes it away when it becomes zero. To first order the loss of a
batch then changes by the factor's gradient g; importance is the mean of g² over batches, as in
Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019, arXiv 1906.10771),
there for channels. A direction's singular value shows how much of the matrix goes with it, and
nothing of what the matrix is for (`docs/results/squeeze_choice.md`).
"""

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel

from edgefuse.layers.chains.decomposition import CENTRAL
from edgefuse.layers.chains.modules import chains_of
from edgefuse.squeezing.training import batches, loss_of
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.data.batching import Dataset


def importance(
    model: PreTrainedModel,
    task: ExportTask,
    data: Dataset,
    *,
    count: int,
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], None],
) -> dict[str, list[np.ndarray]]:
    """Mean over batches of g² for every direction.

    Args:
        model: A model with the task's head, whose chains are canonical.
        task: What the model is for.
        data: Rows of the task.
        count: Count of batches.
        batch_size: Rows in a batch.
        seed: Seed of the rows' order.
        on_batch: Called after each batch with the count of those done.

    Returns:
        For every chain, by its name, four arrays (d_1,) … (d_4,).
    """
    chains = chains_of(model)
    total = {name: [np.zeros(bond) for bond in chain.bonds] for name, chain in chains.items()}
    tensors = [tensor for chain in chains.values() for tensor in chain.auxiliary]
    chosen = batches(data, count, batch_size=batch_size, seed=seed)
    for done, rows in enumerate(chosen, start=1):
        loss = loss_of(model, task, data, rows)
        gradients = iter(torch.autograd.grad(loss, tensors, allow_unused=True))
        for name, chain in chains.items():
            for m, tensor in enumerate(chain.auxiliary):
                gradient = next(gradients)
                if gradient is not None:
                    products = (tensor.detach() * gradient).double()
                    others = (0, 1, 2) if m < CENTRAL else (1, 2, 3)
                    total[name][m] += products.sum(dim=others).square().cpu().numpy() / count
        on_batch(done)
    return total
