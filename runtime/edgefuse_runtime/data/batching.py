"""Which rows go together, and how rows of unlike length become one array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.spool import Spool
from edgefuse_runtime.data.tokenization import TokenIds
from edgefuse_runtime.files.scratch import scratch_folder

_VIEW = 128
"""Bytes of a numpy array that owns no data, in a list."""

_BATCHES_PER_CHUNK = 50

RowIndices = NDArray[np.intp]

Feeds = dict[str, NDArray[Any]]
"""Arrays by the name of the graph's input."""


def lengths_of(feeds: Feeds) -> NDArray[np.intp]:
    """Tokens of each text of a batch before its padding, of shape (texts,).

    Args:
        feeds: A batch whose texts are padded on the right, with an `attention_mask`.
    """
    mask = feeds["attention_mask"] != 0
    ends: NDArray[np.intp] = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)
    return np.where(mask.any(axis=1), ends, 0)


class LearnedTokens(NamedTuple):
    """The tokens of a batch that its loss is the mean over.

    Attributes:
        places: Where they are among all tokens of the batch, row after row.
        targets: The token id to learn at each.
    """

    places: NDArray[np.intp]
    targets: NDArray[np.int64]


class Example(Protocol):
    """A tokenized row, or a part of one.

    A part has an attribute `row` besides: one object for all parts of a row.
    """

    @property
    def token_ids(self) -> TokenIds:
        """Every token id of the row, as often as it occurs."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Tokenized rows of a task.

    Attributes:
        examples: The rows, or their parts, in the order of their file.
    """

    examples: Sequence[Example]

    def __len__(self) -> int:
        """Count of examples."""
        return len(self.examples)

    @cached_property
    def rows(self) -> int:
        """Count of the rows that examples are, or are parts of."""
        return max(self._row_numbers(), default=0)

    def row_numbers(self, examples: RowIndices) -> list[int]:
        """Numbers of the rows, from 1 and each once, that some of the examples are of."""
        numbers = self._row_numbers()
        return sorted({numbers[index] for index in examples})

    def _row_numbers(self) -> Sequence[int]:
        """Number of the row that each example is of."""
        if not self.examples or not hasattr(self.examples[0], "row"):
            return range(1, len(self) + 1)
        known: dict[int, int] = {}
        rows = (example.row for example in self.examples)  # type: ignore[attr-defined]
        return [known.setdefault(id(row), len(known) + 1) for row in rows]

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Tokens of each example, of shape (examples,)."""
        return self._seen[0]

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """Every token id that occurs, once."""
        return self._seen[1]

    @cached_property
    def _seen(self) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Lengths and token ids, for which all examples are read once."""
        lengths = [np.empty(0, np.intp)]
        seen = np.empty(0, np.int64)
        token_ids = (example.token_ids for example in self.examples)
        for some in chunks(token_ids, len):
            lengths.append(np.array([len(one) for one in some], np.intp))
            seen = np.union1d(seen, np.concatenate(some)).astype(np.int64)
        return np.concatenate(lengths), seen


def kept(examples: Iterable[Example], folder: Path | None = None) -> Dataset:
    """Make a data set of examples, which go to the disk if they come one by one and are many.

    Args:
        examples: What a task's `read` gives: a sequence, or what comes one by one.
        folder: Where the file without a name is to be; None for `scratch_folder`.

    Raises:
        DataError: A row is broken.
        OutputError: The disk is full.
    """
    if not isinstance(examples, Sequence):
        examples = Spool(examples, folder or scratch_folder())
    return Dataset(examples)


def training_batches(
    lengths: NDArray[np.intp], batch_size: int, *, seed: int, epoch: int
) -> list[RowIndices]:
    """Shuffle rows into batches whose texts are of similar length, so that little is padding.

    Rows are shuffled, cut into chunks of 50 batches, sorted by length inside a chunk and cut into
    batches, which are shuffled in turn (the LengthGroupedSampler of transformers shuffles no
    batches). The batch with the longest row comes first: memory that does not suffice shows at
    once, and what is taken for it serves all later ones.

    Args:
        lengths: Tokens of each row, of shape (rows,).
        batch_size: Rows in a batch; one batch holds what is left over.
        seed: Seed of the run.
        epoch: Index of the epoch, from 0; every epoch has its own order.

    Returns:
        Row indices of each batch: a pure function of the arguments.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    chunk = batch_size * _BATCHES_PER_CHUNK
    batches: list[RowIndices] = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        batches += _cut(rows[np.argsort(-lengths[rows], kind="stable")], batch_size)
    batches = [batches[i] for i in rng.permutation(len(batches))]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i]].max())
    batches[0], batches[longest] = batches[longest], batches[0]
    return batches


def order_bytes(rows: int, batch_size: int) -> int:
    """Bytes of what `training_batches` gives: indices of rows, and a view for each batch."""
    return rows * np.dtype(np.intp).itemsize + batches_per_epoch(rows, batch_size) * _VIEW


def evaluation_batches(lengths: NDArray[np.intp], batch_size: int) -> list[RowIndices]:
    """Cut rows into batches by falling length; results go back to their rows by the indices."""
    return _cut(np.argsort(-lengths, kind="stable"), batch_size)


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Count of batches that `training_batches` makes."""
    return -(-rows // batch_size)


def pad(rows: Sequence[NDArray[Any]], value: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad rows on the right to the longest of them.

    Args:
        rows: Numbers of each row, of shape (length,).
        value: Number that pads.

    Returns:
        The padded rows and a mask that is 1 where they are no padding, both int64 of shape
        (rows, longest length).
    """
    lengths = np.array([len(row) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(real.shape, value, np.int64)
    padded[real] = np.concatenate(rows)
    return padded, real.astype(np.int64)


def random_texts(
    rng: np.random.Generator,
    shape: tuple[int, int],
    token_ids: NDArray[np.int64],
    *,
    padded: bool = False,
) -> Feeds:
    """Random token ids and their mask, both (rows, tokens).

    Args:
        rng: Source of randomness.
        shape: (rows, tokens).
        token_ids: Token ids to draw from.
        padded: Whether the second half of the last row is masked; else nothing is.
    """
    input_ids = rng.choice(token_ids, shape).astype(np.int64)
    mask = np.ones_like(input_ids)
    if padded:
        mask[-1, shape[1] // 2 :] = 0
    return {"input_ids": input_ids, "attention_mask": mask}


def token_ids_of(feeds: Feeds) -> list[NDArray[np.int64]]:
    """The token ids of each text that a batch's rows have, all (rows, tokens of that text)."""
    return [array for name, array in feeds.items() if name.endswith("input_ids")]


def _cut(rows: RowIndices, batch_size: int) -> list[RowIndices]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
