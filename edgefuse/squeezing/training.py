"""A model trained on the workstation by the board's rules.

Batches, loss, figures, schedule, optimizer, weight decay and clipping are those of a bundle that
`edgefuse export` makes without options.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.fused import fused_mlps
from edgefuse.tuning.way import Way
from edgefuse_export.passes.norm_weights import norm_weights
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.data.batching import (
    Dataset,
    Feeds,
    RowIndices,
    evaluation_batches,
    training_batches,
)
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import decays
from edgefuse_runtime.training.run import TrainingSettings
from edgefuse_runtime.training.schedule import learning_rate as rate_of

_ADAMW = AdamW()
_WARMUP_RATIO = TrainingSettings().warmup_ratio
_EVALUATION_BATCH = 64


def train(
    model: PreTrainedModel,
    task: ExportTask,
    data: Dataset,
    *,
    way: Way,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train a model in place, from a new optimizer on and without dropout.

    Args:
        model: A model with the task's head, in evaluation mode.
        task: What it is trained for.
        data: Rows to learn.
        way: What trains.
        steps: Count of steps.
        batch_size: Rows in a step.
        learning_rate: Peak of the learning rate.
        seed: Seed of the rows' order.
        on_step: Called with the count of steps done.
    """
    rates = way.prepare(model, context_of_shapes(task)).rates
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    weights = _norm_weights(model)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [parameter],
                "rate": rates.get(name, 1.0),
                "weight_decay": _ADAMW.weight_decay if decays(parameter.ndim) else 0.0,
            }
            for name, parameter in parameters.items()
        ],
        betas=(_ADAMW.beta1, _ADAMW.beta2),
        eps=_ADAMW.eps,
    )
    for step, rows in enumerate(batches(data, steps, batch_size=batch_size, seed=seed)):
        rate = rate_of(step, peak=learning_rate, total_steps=steps, warmup_ratio=_WARMUP_RATIO)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        optimizer.zero_grad()
        loss_of(model, task, data, rows).backward()  # type: ignore[no-untyped-call]
        _clip(parameters, weights)
        optimizer.step()
        on_step(step + 1)


def batches(data: Dataset, steps: int, *, batch_size: int, seed: int) -> Iterator[RowIndices]:
    """Indices of each step's rows, epoch after epoch in a new order."""
    epochs = (
        training_batches(data.lengths, batch_size, seed=seed, epoch=epoch) for epoch in count()
    )
    return islice(chain.from_iterable(epochs), steps)


def loss_of(model: PreTrainedModel, task: ExportTask, data: Dataset, rows: RowIndices) -> Tensor:
    """The loss on the rows of these indices."""
    return _run(model, task, _feeds(model, task, data, rows))[0]


@torch.no_grad()
def measure(model: PreTrainedModel, task: ExportTask, data: Dataset) -> dict[str, float]:
    """Figures of merit of a model, the primary one first."""
    metric = task.task.metric()
    for rows in evaluation_batches(data.lengths, _EVALUATION_BATCH):
        feeds = _feeds(model, task, data, rows)
        _, *outputs = _run(model, task, feeds)
        arrays = (tensor.cpu().numpy() for tensor in outputs)
        examples = [data.examples[row] for row in rows]
        metric.update(examples, feeds, dict(zip(task.outputs, arrays, strict=True)))
    return metric.result()


def _feeds(model: PreTrainedModel, task: ExportTask, data: Dataset, rows: RowIndices) -> Feeds:
    examples = [data.examples[row] for row in rows]
    return task.task.collate(examples, padding_id=model.config.pad_token_id or 0)


def _run(model: PreTrainedModel, task: ExportTask, feeds: Feeds) -> Sequence[Tensor]:
    """The loss and the outputs."""
    names = (*task.inputs, *task.targets)
    tensors = [torch.from_numpy(feeds[name]).to(model.device) for name in names]
    results: Sequence[Tensor] = task.loss(model)(*tensors)
    return results


def _norm_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """What gradients of fused neurons are multiplied by in the global norm, by parameter."""
    tensors = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    return {
        name: torch.from_numpy(weight.broadcast(tensors[name].ndim)).to(model.device)
        for name, weight in norm_weights(fused_mlps(model), (), tensors).items()
    }


def _clip(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Scale the gradients down where their global norm is above the board's limit."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    norm = nn.utils.get_total_norm([weights.get(n, 1.0) * g for n, g in gradients.items()])
    nn.utils.clip_grads_with_norm_(parameters.values(), _ADAMW.max_gradient_norm, norm)
