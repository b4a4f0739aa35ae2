"""Sentence encoders for `tasks`: their data, and the same training by sentence-transformers.

`banking77-similarity` are pairs of questions of one intent: each training question with the next
one of its intent. A test question is to find the first training question of its intent among those
of all 77. `stsb-similarity` are STS-B's sentences with scores from 0 to 5.

The other side has EdgeFuse's batches, schedule, AdamW and clipping, and sentence-transformers'
model and losses.
"""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import path_of, rows_of
from benchmarks.harness import Figures
from edgefuse_runtime.data.batching import training_batches
from edgefuse_runtime.machine import memory
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import decays
from edgefuse_runtime.tasks.correlation import spearman
from edgefuse_runtime.tasks.retrieval_metrics import nearest, unit
from edgefuse_runtime.training.run import TrainingSettings
from edgefuse_runtime.training.schedule import learning_rate as rate_of

HIGHEST_SCORE = 5.0
"""The score of sentences that say the same in STS-B."""

_COLUMNS = {"ranking": ("anchor", "positive"), "regression": ("text", "text_pair")}

Row = dict[str, Any]


def write_intents(folder: Path, rows: int) -> tuple[Path, Path]:
    """Write pairs of Banking77's questions.

    Args:
        folder: A folder that exists.
        rows: Count of training rows.

    Returns:
        The files of training and test rows.
    """
    train, by_intent = rows_of("banking77/train.jsonl"), dict[str, list[str]]()
    for row in train:
        by_intent.setdefault(row["label"], []).append(row["text"])
    following = {
        text: other
        for texts in by_intent.values()
        for text, other in zip(texts, [*texts[1:], texts[0]], strict=True)
    }
    pairs = [{"anchor": row["text"], "positive": following[row["text"]]} for row in train[:rows]]
    wanted = [
        {"anchor": row["text"], "positive": by_intent[row["label"]][0]}
        for row in rows_of("banking77/test.jsonl")
    ]
    return _write(folder / "train.jsonl", pairs), _write(folder / "test.jsonl", wanted)


def write_scores(folder: Path, rows: int) -> tuple[Path, Path]:
    """Write STS-B's first training rows; the test rows are the data's own."""
    train = _write(folder / "train.jsonl", rows_of("stsb/train.jsonl")[:rows])
    return train, path_of("stsb/test.jsonl")


def pytorch(
    *,
    model: str,
    train: str,
    test: str,
    problem_type: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    length: int,
    threads: int,
    seed: int,
) -> Figures:
    """Train and measure by sentence-transformers; runs in a process of its own.

    Args:
        model: A sentence encoder's folder.
        train: File of training rows.
        test: File of test rows.
        problem_type: `ranking` or `regression`.
        epochs: Count of passes over the training rows.
        batch_size: Rows in a step.
        learning_rate: Peak of the learning rate.
        length: Count of tokens that texts are cut to.
        threads: Threads of PyTorch.
        seed: Seed of the rows' order.

    Returns:
        `metric`, the task's first figure on the test rows; `seconds` of training; and `rss_mib`,
        the peak of the process.
    """
    import torch  # noqa: PLC0415
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from sentence_transformers.sentence_transformer.losses import (  # noqa: PLC0415
        CosineSimilarityLoss,
        MultipleNegativesRankingLoss,
    )

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(model, device="cpu").eval()  # no dropout, as in EdgeFuse
    encoder.max_seq_length = length
    losses = {"ranking": MultipleNegativesRankingLoss, "regression": CosineSimilarityLoss}
    loss_of = losses[problem_type](encoder)
    settings = AdamW()
    parameters = list(encoder.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": settings.weight_decay if decays(p.ndim) else 0.0}
            for p in parameters
        ],
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
    rows, columns = _read(train), _COLUMNS[problem_type]
    texts = [[row[column] for row in rows] for column in columns]
    ids = [encoder.tokenizer(column)["input_ids"] for column in texts]
    counts = np.sum([[len(row) for row in column] for column in ids], axis=0)
    batches = []  # tokenized before time is taken, as in EdgeFuse
    for indices in _epochs(counts, batch_size, epochs=epochs, seed=seed):
        chosen = [rows[index] for index in indices]
        scores = [row.get("score", 0.0) / HIGHEST_SCORE for row in chosen]
        features = [encoder.preprocess([row[column] for row in chosen]) for column in columns]
        batches.append((features, torch.tensor(scores)))
    ratio = TrainingSettings().warmup_ratio
    begin = time.perf_counter()
    for step, batch in enumerate(batches):
        rate = rate_of(step, peak=learning_rate, total_steps=len(batches), warmup_ratio=ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
        optimizer.step()
        loss.item()
    trained = {
        "seconds": time.perf_counter() - begin,
        "rss_mib": memory.peak_resident() / 2**20,
    }
    return {"metric": _metric(encoder, _read(test), problem_type), **trained}


def _metric(encoder: Any, rows: Sequence[Row], problem_type: str) -> float:
    """Recall@1 where each anchor has one positive, or Spearman's correlation."""
    firsts, seconds = ([row[name] for row in rows] for name in _COLUMNS[problem_type])
    if problem_type == "ranking":
        corpus = list(dict.fromkeys(seconds))
        found = nearest(encoder.encode(firsts), encoder.encode(corpus), 1)
        right = [corpus[i] == text for ((i,), _), text in zip(found, seconds, strict=True)]
        return float(np.mean(right))
    cosines = np.sum(unit(encoder.encode(firsts)) * unit(encoder.encode(seconds)), axis=1)
    return spearman(cosines, [row["score"] for row in rows])


def _epochs(
    lengths: np.ndarray, batch_size: int, *, epochs: int, seed: int
) -> Iterator[np.ndarray]:
    return chain.from_iterable(
        training_batches(lengths, batch_size, seed=seed, epoch=epoch) for epoch in range(epochs)
    )


def _read(file: str) -> list[Row]:
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def _write(file: Path, rows: Sequence[Row]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file
