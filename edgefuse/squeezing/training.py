"""A classifier trained for a while on the workstation, as the board would train it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from edgefuse.bundling.context import context_of_shapes
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_export.tasks.registry import export_task
from edgefuse_runtime.data.dataset import Example
from edgefuse_runtime.tasks.text_classification import TextClassification
from edgefuse_runtime.training.schedule import learning_rate as rate_of

_WARMUP = 0.1  # of the steps
_WEIGHT_DECAY = 0.01
_GRADIENT_NORM = 1.0
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Rows:
    """Labelled rows as token ids, each (length,), and class indices (rows,)."""

    token_ids: Sequence[Tensor]
    labels: Tensor


def tokenize_rows(tokenizer: ModelTokenizer, examples: Sequence[Example], *, longest: int) -> Rows:
    """Tokenize labelled texts, cut after so many tokens."""
    texts = [example.text for example in examples]
    encoded = tokenizer.encode(texts, length=longest)
    labels = torch.tensor([example.label for example in examples])
    return Rows([torch.from_numpy(ids).long() for ids in encoded], labels)


def train(
    model: PreTrainedModel,
    rows: Rows,
    *,
    way: Mpo,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train a classifier in place, from a new optimizer on.

    AdamW with warm-up and linear decay; no dropout, as in exported graphs.

    Args:
        model: With chains; in evaluation mode.
        rows: What to learn.
        way: What trains.
        steps: How many.
        batch_size: Rows in a step.
        learning_rate: Its peak.
        seed: Of the rows' order.
        on_step: Called with the count of steps done.
    """
    labels = [str(index) for index in range(model.config.num_labels or 0)]
    task = export_task(TextClassification(labels=labels))
    rates = way.prepare(model, context_of_shapes(task)).rates
    groups = [
        {
            "params": [parameter],
            "rate": rates.get(name, 1.0),
            "weight_decay": _WEIGHT_DECAY if parameter.ndim > 1 else 0.0,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    optimizer = torch.optim.AdamW(groups)
    parameters = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    for step, index in enumerate(batches(len(rows.labels), steps, batch_size, seed)):
        rate = rate_of(step, peak=learning_rate, total_steps=steps, warmup_ratio=_WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        optimizer.zero_grad()
        loss_of(model, rows, index).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
        optimizer.step()
        on_step(step + 1)


def loss_of(model: PreTrainedModel, rows: Rows, index: Tensor) -> Tensor:
    """Mean cross-entropy of the rows of these indices."""
    return F.cross_entropy(_logits(model, rows, index), rows.labels[index].to(model.device))


def batches(rows: int, steps: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Indices of each step's rows, epoch after epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for index in torch.split(torch.randperm(rows, generator=generator), batch_size):
            if done == steps:
                return
            yield index
            done += 1


@torch.no_grad()
def accuracy(model: PreTrainedModel, rows: Rows) -> float:
    """Share of rows that a classifier gets right."""
    by_length = sorted(range(len(rows.labels)), key=lambda row: len(rows.token_ids[row]))
    right = 0
    for index in torch.split(torch.tensor(by_length), _EVALUATION_BATCH):
        predicted = _logits(model, rows, index).argmax(dim=-1).cpu()
        right += int((predicted == rows.labels[index]).sum())
    return right / len(rows.labels)


def _logits(model: PreTrainedModel, rows: Rows, index: Tensor) -> Tensor:
    token_ids = [rows.token_ids[row] for row in index.tolist()]
    padding = model.config.pad_token_id or 0
    ids = pad_sequence(token_ids, batch_first=True, padding_value=padding)
    mask = pad_sequence([torch.ones_like(one) for one in token_ids], batch_first=True)
    logits: Tensor = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
    ).logits
    return logits
