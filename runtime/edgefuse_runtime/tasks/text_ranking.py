"""Learning to find: each anchor's positive among all other texts of a batch."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.tasks.retrieval_metrics import DEPTH, Embeddings, Retrieval, nearest
from edgefuse_runtime.tasks.similar_texts import read_ranked
from edgefuse_runtime.tasks.task import Figure, Figures, Outputs
from edgefuse_runtime.tasks.text_tuples import TextTuple, encode_rows, positions


@dataclass(frozen=True)
class RankedTuple(TextTuple):
    """An anchor, its positive and perhaps a negative.

    Attributes:
        positives: Numbers of all texts that are the anchor's positive in a row of the file.
    """

    positives: frozenset[int]

    @property
    def anchor(self) -> int:
        """Number of the anchor."""
        return self.numbers[0]

    @property
    def positive(self) -> int:
        """Number of the positive."""
        return self.numbers[1]

    @property
    def belonging(self) -> frozenset[int]:
        """Numbers of the texts that are no negatives of the anchor, itself among them."""
        return self.positives | {self.anchor}


@dataclass(frozen=True)
class Ranking:
    """What rows with `anchor` and `positive` train.

    Attributes:
        negatives: Whether rows may have a `negative` too.
    """

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="recall_at_1", title="recall@1", format=".1%"),
        Figure(name="mrr_at_10", title="MRR@10", format=".3f"),
    )
    targets: ClassVar[tuple[str, ...]] = ("anchors", "candidates", "labels", "comparable")

    negatives: bool

    @property
    def texts_per_row(self) -> int:
        """Most texts of a row."""
        return 3 if self.negatives else 2

    def read(self, file: Path, tokenizer: Tokenizer, *, prompt: str) -> list[RankedTuple]:
        """Read and tokenize rows.

        Raises:
            DataError: A row is broken; the message names file and line.
        """
        rows = read_ranked(file, negatives=self.negatives)
        tuples = encode_rows(
            [row.texts for row in rows],
            tokenizer,
            prompt=prompt,
            places=[row.place for row in rows],
        )
        positives: dict[int, set[int]] = defaultdict(set)
        for row in tuples:
            positives[row.numbers[0]].add(row.numbers[1])
        frozen = {anchor: frozenset(found) for anchor, found in positives.items()}
        return [RankedTuple(row.numbers, row.encoded, frozen[row.numbers[0]]) for row in tuples]

    def collate(self, examples: Sequence[RankedTuple]) -> Feeds:
        """Where anchors and candidates stand, each row's positive, and what is compared.

        A text that is the positive of several rows is one candidate. A candidate that belongs to
        an anchor by another row of the file, or is the anchor itself, is no negative of it.

        Returns:
            `anchors` (rows,) and `candidates` (candidates,), rows of the embeddings; `labels`
            (rows,), indices into the candidates; `comparable` (rows, candidates), truth values.
        """
        place = positions(examples)
        firsts = [example.positive for example in examples]
        others = [number for example in examples for number in example.numbers[2:]]
        column = {number: index for index, number in enumerate(dict.fromkeys(firsts + others))}
        comparable = [
            [number == example.positive or number not in belonging for number in column]
            for example in examples
            for belonging in (example.belonging,)
        ]
        return {
            "anchors": np.array([place[example.anchor] for example in examples], np.int64),
            "candidates": np.array([place[number] for number in column], np.int64),
            "labels": np.array([column[number] for number in firsts], np.int64),
            "comparable": np.array(comparable, np.bool_),
        }

    def terms(self, feeds: Feeds) -> None:
        """None: every row is held against all others of the batch."""

    def random_targets(self, rng: np.random.Generator, rows: int) -> Feeds:
        """Targets of rows that have no text in common; all is compared."""
        candidates = (self.texts_per_row - 1) * rows
        return {
            "anchors": np.arange(rows, dtype=np.int64),
            "candidates": np.arange(rows, rows + candidates, dtype=np.int64),
            "labels": rng.permutation(candidates)[:rows].astype(np.int64),
            "comparable": np.ones((rows, candidates), np.bool_),
        }

    def metric(self) -> "RankingMetric":
        """Recall@1 and MRR@10."""
        return RankingMetric()


class RankingMetric:
    """How well anchors find their positives among all positives and negatives of a file.

    Only the embeddings are held, each text's once.
    """

    def __init__(self) -> None:
        self._embeddings: dict[int, Embeddings] = {}
        self._positives: dict[int, frozenset[int]] = {}
        self._corpus: dict[int, None] = {}

    def update(self, examples: Sequence[RankedTuple], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch."""
        for number, embedding in zip(
            positions(examples), outputs["sentence_embedding"], strict=True
        ):
            self._embeddings.setdefault(number, embedding.copy())
        for example in examples:
            self._positives[example.anchor] = example.positives
            self._corpus.update(dict.fromkeys(example.numbers[1:]))

    def result(self) -> Figures:
        """The figures, recall@1 first; an anchor does not find itself, unless it shall."""
        corpus, anchors = list(self._corpus), list(self._positives)
        vectors, queries = (
            np.stack([self._embeddings[number] for number in numbers])
            for numbers in (corpus, anchors)
        )
        retrieval = Retrieval()
        for anchor, (indices, _) in zip(anchors, nearest(queries, vectors, DEPTH + 1), strict=True):
            positives = self._positives[anchor]
            found = [corpus[index] for index in indices]
            order = [text for text in found if text != anchor or text in positives]
            retrieval.update(order, positives)
        return {"recall_at_1": retrieval.recall_at_1, "mrr_at_10": retrieval.mrr_at_10}
