"""The training loop of the PyTorch side: what people pick, with EdgeFuse's recipe.

Scaled-dot-product attention, fused AdamW without decay of vectors, gradients clipped at 1, no
dropout, and rows of like length in a batch, in the very order that EdgeFuse takes them.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgefuse_runtime.data.batching import training_batches
from edgefuse_runtime.machine import memory
from edgefuse_runtime.training.run import TrainingSettings
from edgefuse_runtime.training.schedule import learning_rate as rate_of

Collate: TypeAlias = Callable[[Sequence[Any]], dict[str, Any]]
"""Makes a batch's tensors, by the model's argument, of tokenized rows."""


def rows_in(file: str) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    with Path(file).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fit(
    model: Any,
    rows: Sequence[Any],
    lengths: Sequence[int],
    collate: Collate,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    loss_of: Callable[[Any, dict[str, Any]], Any] = lambda model, batch: model(**batch).loss,
    on_step: Callable[[float, float], object] = lambda _loss, _seconds: None,
) -> dict[str, float]:
    """Train a model in place.

    Args:
        model: A model of transformers, or another module, in evaluation mode.
        rows: Tokenized rows.
        lengths: Tokens of each row.
        collate: Makes a batch of rows.
        epochs: Passes over the rows.
        learning_rate: Peak of the learning rate.
        batch_size: Rows in a step.
        seed: Seed of the rows' order.
        loss_of: Loss of the model on a batch.
        on_step: Called after every step, with the loss before it and its seconds.

    Returns:
        `seconds` of all steps, and `rss_mib`, the peak of the process until now.
    """
    import torch  # noqa: PLC0415

    batches = [
        indices
        for epoch in range(epochs)
        for indices in training_batches(np.array(lengths), batch_size, seed=seed, epoch=epoch)
    ]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        fused=True,
    )
    ratio = TrainingSettings().warmup_ratio
    begin = time.perf_counter()
    for step, indices in enumerate(batches):
        step_begin = time.perf_counter()
        rate = rate_of(step, peak=learning_rate, total_steps=len(batches), warmup_ratio=ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(model, collate([rows[index] for index in indices]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        on_step(loss.item(), time.perf_counter() - step_begin)
    return {
        "seconds": time.perf_counter() - begin,
        "rss_mib": memory.peak_resident() / 2**20,
    }
