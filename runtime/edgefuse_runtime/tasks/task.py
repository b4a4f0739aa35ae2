"""The task seam: what a model is trained for, on the board's side.

A task is one file here, one in `edgefuse_export.tasks`, and an entry in each of the two lists.
Nothing outside of them asks which task it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Example, Feeds

Outputs = dict[str, NDArray[Any]]
"""Arrays by the name of the inference graph's output."""

Figures = dict[str, float]
"""Figures of merit by their names, the primary one first."""


class Figure(Struct, frozen=True, kw_only=True):
    """A figure of merit that a task's metric gives.

    Attributes:
        name: Key in records and reports.
        title: Words for people.
        format: Format specification of its value, such as `.1%`.
        higher_is_better: Whether a higher value is better.
    """

    name: str
    title: str
    format: str
    higher_is_better: bool = True

    def text(self, value: float) -> str:
        """The value as people read it."""
        return format(value, self.format)

    def improves(self, value: float, before: float | None) -> bool:
        """Whether a value is better than the best before, if there is one."""
        if before is None:
            return True
        return value > before if self.higher_is_better else value < before


class Metric(Protocol):
    """Figures over a data file, gathered batch by batch: nothing ever holds all outputs."""

    def update(self, outputs: Outputs, feeds: Feeds) -> None:
        """Take a batch: what the model gave, and what it was fed, targets included."""
        ...

    def result(self) -> Figures:
        """The figures over all batches."""
        ...


class Prediction(Protocol):
    """What a model makes of a text: a struct, whose text is a line for people."""

    def __str__(self) -> str:
        """A line for the terminal."""
        ...


@runtime_checkable
class Task(Protocol):
    """What a model is trained for: a member of the manifest's union.

    Attributes:
        figures: Figures of merit, the primary one first: by it the best epoch is chosen.
    """

    figures: ClassVar[tuple[Figure, ...]]

    @property
    def name(self) -> str:
        """The name, in optimum's terms."""
        ...

    @property
    def summary(self) -> str:
        """Name and extent of the task, for people."""
        ...

    def read(self, file: Path, tokenizer: Tokenizer) -> Sequence[Example]:
        """Read and tokenize a data file.

        Args:
            file: JSON lines.
            tokenizer: The bundle's, which cuts long texts.

        Raises:
            DataError: A row is broken; it names file and line.
        """
        ...

    def examples(self, texts: Sequence[str], tokenizer: Tokenizer) -> Sequence[Example]:
        """Tokenize texts to predict for, which have no targets.

        Raises:
            DataError: A text has no token.
        """
        ...

    def collate(self, examples: Sequence[Any], *, padding_id: int) -> Feeds:
        """Arrays of a batch by graph-input name, targets among them where the rows have any.

        Args:
            examples: Some of what `read` or `examples` gave.
            padding_id: Token id that pads.
        """
        ...

    def random_feeds(
        self, rng: np.random.Generator, shape: tuple[int, int], token_ids: NDArray[np.int64]
    ) -> Feeds:
        """A batch of random rows of full length with targets, to measure with.

        Args:
            rng: Source of randomness.
            shape: (rows, tokens).
            token_ids: Token ids to draw from.
        """
        ...

    def metric(self) -> Metric:
        """A metric that has seen nothing yet."""
        ...

    def predict(self, texts: Sequence[str], outputs: Outputs) -> Sequence[Prediction]:
        """What the model makes of each text of a batch."""
        ...
