"""What a problem type is: its rows' targets, its figures, and what it predicts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgefuse_runtime.data.rows import Row
from edgefuse_runtime.tasks.task import Figure, Figures

Logits = NDArray[np.float32]
"""Logits of shape (rows, labels)."""


class Text(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was classified: the base of predictions.

    Attributes:
        text: The text as given.
        text_pair: The second text, of a pair.
    """

    text: str
    text_pair: str | None = None

    def after(self, found: str) -> str:
        """A line for people: what was found and the texts, with tabs between."""
        texts = [self.text] if self.text_pair is None else [self.text, self.text_pair]
        return "\t".join([found, *texts])


class ProblemMetric(Protocol):
    """Figures of logits against targets, gathered batch by batch."""

    def update(self, logits: Logits, targets: NDArray[Any]) -> None:
        """Take a batch.

        Args:
            logits: Logits of shape (rows, labels).
            targets: What `collate` made of the rows' targets.
        """
        ...

    def result(self) -> Figures:
        """The figures over all batches, the primary one first."""
        ...


class Problem(Protocol):
    """A problem type with its labels.

    Attributes:
        figures: Figures of merit, the primary one first.
        target: Example in JSON of what a row says besides texts.
    """

    figures: ClassVar[tuple[Figure, ...]]
    target: ClassVar[str]

    def __init__(self, labels: Sequence[str]) -> None:
        """Take the names of what the logits stand for, in their order."""
        ...

    @property
    def summary(self) -> str:
        """What a text gets, for people."""
        ...

    @staticmethod
    def labels_of(rows: Sequence[Row]) -> Sequence[str] | frozenset[str]:
        """Names of what the logits of a new head stand for; a set has no order.

        Args:
            rows: Rows to train on.

        Raises:
            DataError: A row's target does not hold, or there are too few labels.
        """
        ...

    def targets(self, rows: Iterable[Row]) -> Iterator[Any]:
        """What each row says, as the rows come.

        Raises:
            DataError: A row says nothing, or what does not hold; the message names it.
        """
        ...

    def collate(self, targets: Sequence[Any]) -> NDArray[Any]:
        """Targets of a batch as the training graph takes them."""
        ...

    def random_targets(self, rng: np.random.Generator, rows: int) -> NDArray[Any]:
        """Random targets as `collate` gives them."""
        ...

    def metric(self) -> ProblemMetric:
        """A metric that has seen nothing yet."""
        ...

    def predictions(self, texts: Sequence[dict[str, str]], logits: Logits) -> Sequence[Text]:
        """What the logits say of texts.

        Args:
            texts: `text`, and of a pair `text_pair`.
            logits: Logits of shape (rows, labels).
        """
        ...
