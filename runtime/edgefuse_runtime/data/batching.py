"""Which rows go together, and the arrays they become."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.data.tokenization import TokenIds
from edgefuse_runtime.engines.engine import Batch

_BATCHES_PER_CHUNK = 50

Rows = NDArray[np.intp]


def training_batches(
    lengths: NDArray[np.intp], batch_size: int, *, seed: int, epoch: int
) -> list[Rows]:
    """Shuffle rows into batches whose texts are of similar length, so that little is padding.

    Rows are shuffled, cut into chunks of 50 batches, sorted by length inside a chunk and cut into
    batches, which are shuffled in turn (the LengthGroupedSampler of transformers shuffles no
    batches). The batch with the longest row comes first: memory that does not suffice shows at
    once, and what is taken for it serves all later ones.

    Args:
        lengths: Tokens of each row, of shape (rows,).
        batch_size: Rows in a batch; one batch holds what is left over.
        seed: Of the run.
        epoch: From 0; every epoch has its own order.

    Returns:
        Row indices of each batch: a pure function of the arguments.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    chunk = batch_size * _BATCHES_PER_CHUNK
    batches: list[Rows] = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        batches += _cut(rows[np.argsort(-lengths[rows], kind="stable")], batch_size)
    batches = [batches[i] for i in rng.permutation(len(batches))]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max())
    batches[0], batches[longest] = batches[longest], batches[0]
    return batches


def evaluation_batches(lengths: NDArray[np.intp], batch_size: int) -> list[Rows]:
    """Cut rows into batches by falling length; scatter results back with the indices."""
    return _cut(np.argsort(-lengths, kind="stable"), batch_size)


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Count of batches that `training_batches` makes."""
    return -(-rows // batch_size)


def collate(
    rows: Sequence[TokenIds], labels: Sequence[int], inputs: Sequence[str], padding_id: int
) -> Batch:
    """Pad rows on the right to the longest of them.

    Args:
        rows: Token ids of each row.
        labels: Class index of each row.
        inputs: The batch inputs of the graph: `input_ids`, `attention_mask`, `token_type_ids`.
        padding_id: What fills `input_ids`.
    """
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids = np.full(mask.shape, padding_id, np.int64)
    input_ids[mask] = np.concatenate(rows)
    arrays = {
        "input_ids": input_ids,
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": np.zeros_like(input_ids),
    }
    return Batch(
        inputs={name: arrays[name] for name in inputs},
        labels=np.array(labels, np.int64),
        tokens=int(lengths.sum()),
    )


def _cut(rows: Rows, batch_size: int) -> list[Rows]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
