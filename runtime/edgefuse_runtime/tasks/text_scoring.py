"""Learning how alike two texts are: the cosine of their embeddings is to be a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.tasks.correlation import spearman
from edgefuse_runtime.tasks.retrieval_metrics import unit
from edgefuse_runtime.tasks.similar_texts import read_scored
from edgefuse_runtime.tasks.task import Figure, Figures, Outputs
from edgefuse_runtime.tasks.text_tuples import TextTuple, encode_rows, positions


@dataclass(frozen=True)
class ScoredTuple(TextTuple):
    """Two texts and how alike they are.

    Attributes:
        score: Cosine that they shall have, from 0 to 1.
    """

    score: float


@dataclass(frozen=True)
class Scoring:
    """What rows with `text`, `text_pair` and `score` train.

    Attributes:
        highest_score: Score of texts that say the same.
    """

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="spearman", title="Spearman", format=".3f"),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    )
    targets: ClassVar[tuple[str, ...]] = ("firsts", "seconds", "scores")
    texts_per_row: ClassVar[int] = 2

    highest_score: float

    def read(self, file: Path, tokenizer: Tokenizer, *, prompt: str) -> list[ScoredTuple]:
        """Read and tokenize rows.

        Raises:
            DataError: A row is broken; the message names file and line.
        """
        rows = read_scored(file, highest=self.highest_score)
        tuples = encode_rows(
            [(row.first, row.second) for row in rows],
            tokenizer,
            prompt=prompt,
            places=[row.place for row in rows],
        )
        return [
            ScoredTuple(one.numbers, one.encoded, row.score)
            for one, row in zip(tuples, rows, strict=True)
        ]

    def collate(self, examples: Sequence[ScoredTuple]) -> Feeds:
        """Where both texts of each row stand among the embeddings, and the scores; all (rows,)."""
        place = positions(examples)
        firsts, seconds = ([place[example.numbers[i]] for example in examples] for i in (0, 1))
        return {
            "firsts": np.array(firsts, np.int64),
            "seconds": np.array(seconds, np.int64),
            "scores": np.array([example.score for example in examples], np.float32),
        }

    def terms(self, feeds: Feeds) -> int:
        """Count the rows."""
        return len(feeds["scores"])

    def random_targets(self, rng: np.random.Generator, rows: int) -> Feeds:
        """Random scores of rows that have no text in common."""
        firsts = np.arange(rows, dtype=np.int64)
        scores = rng.random(rows, np.float32)
        return {"firsts": firsts, "seconds": firsts + rows, "scores": scores}

    def metric(self) -> "ScoringMetric":
        """Spearman's correlation and the loss."""
        return ScoringMetric()


class ScoringMetric:
    """How well cosines follow the scores of a file."""

    def __init__(self) -> None:
        self._cosines: list[float] = []
        self._scores: list[float] = []

    def update(self, examples: Sequence[ScoredTuple], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch."""
        embeddings = unit(outputs["sentence_embedding"])
        first, second = embeddings[feeds["firsts"]], embeddings[feeds["seconds"]]
        self._cosines += np.sum(first * second, axis=1).tolist()
        self._scores += feeds["scores"].tolist()

    def result(self) -> Figures:
        """The figures, Spearman's correlation first."""
        errors = np.subtract(self._cosines, self._scores)
        return {
            "spearman": spearman(self._cosines, self._scores),
            "loss": float(np.square(errors).mean()),
        }
