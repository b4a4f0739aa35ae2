"""The task seam: what a model is trained for, on the board's side.

A task is one file here, one in `edgefuse_export.tasks`, and an entry in each of the two lists.
Nothing outside of them asks which task it is.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data import asked
from edgefuse_runtime.data.batching import Example, Feeds, LearnedTokens

Asked = asked.Asked
"""What a model is asked to predict for: a text, or the fields of a row as data files have them."""

Outputs = dict[str, NDArray[Any]]
"""Arrays by the name of the inference graph's output."""

NextLogits = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]
"""A function of the token ids of texts: logits of the token after each, (texts, vocabulary)."""

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

    def update(self, examples: Sequence[Any], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch.

        Args:
            examples: Some of what the task's `read` gave.
            feeds: The arrays that `collate` made of them.
            outputs: What the model gave.
        """
        ...

    def result(self) -> Figures:
        """The figures over all batches."""
        ...


class Model(Protocol):
    """A model that infers, as a task sees it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, which cuts long texts."""
        ...

    @property
    def padding_id(self) -> int:
        """Token id that pads."""
        ...

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs of a batch by their names; targets among the feeds are not looked at."""
        ...

    def next_logits(self) -> NextLogits:
        """A function that gives the logits after texts, and may remember what it read last."""
        ...


@dataclass(frozen=True)
class NoOptions:
    """The options of `predict` or `evaluate` for a task that has none."""


class Prediction(Protocol):
    """What a model makes of what it was asked: a struct, whose text is a line for people."""

    def __str__(self) -> str:
        """A line for the terminal."""
        ...


@runtime_checkable
class Task(Protocol):
    """What a model is trained for: a member of the manifest's union.

    Attributes:
        figures: Every figure of merit that the task's metric can give. By the first that it does
            give, the primary one, the best epoch is chosen.
        auto_class: Class of transformers that loads a model with the task's head.
        encoder_decoder: Whether such a model is a pair of an encoder and a decoder.
        prediction_options: A frozen dataclass, whose fields are the task's options of `predict`
            (`edgefuse_devices.options.option`), and flags of the command.
    """

    figures: ClassVar[tuple[Figure, ...]]
    auto_class: ClassVar[str]
    encoder_decoder: ClassVar[bool]
    prediction_options: ClassVar[type[Any]]

    @property
    def name(self) -> str:
        """The name, in optimum's terms."""
        ...

    @property
    def summary(self) -> str:
        """Name and extent of the task, for people."""
        ...

    @property
    def smallest_batch(self) -> int:
        """Fewest rows of a batch that teach anything: 1, or 2 where rows are held together."""
        ...

    def read(self, file: Path, tokenizer: Tokenizer) -> Iterable[Example]:
        """Read and tokenize a data file.

        Args:
            file: Rows: JSON lines, or CSV or TSV with a header.
            tokenizer: The bundle's, which cuts long texts.

        Returns:
            Examples one by one, named tuples of one class; or a sequence of them, in memory, of a
            task that has to see all rows before it can give the first.

        Raises:
            DataError: A row is broken; it names file and line.
        """
        ...

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> Sequence[Example]:
        """Tokenize what to predict for, an example each; they have no targets.

        Raises:
            DataError: One has no token, or lacks a field that the task needs.
        """
        ...

    def collate(self, examples: Sequence[Any], *, padding_id: int) -> Feeds:
        """Arrays of a batch by graph-input name, targets among them where the rows have any.

        Args:
            examples: Some of what `read` or `examples` gave.
            padding_id: Token id that pads.
        """
        ...

    def terms(self, feeds: Feeds) -> float | None:
        """Count the terms that the loss of a batch is the mean of, as rows or tokens are.

        A batch may come in parts, whose losses are weighed by their terms.

        Args:
            feeds: A batch with its targets.

        Returns:
            The count; None where a loss has no such terms, because rows are held against one
            another.
        """
        ...

    def learned_tokens(self, feeds: Feeds) -> LearnedTokens | None:
        """Which tokens the loss of a batch is the mean over, where it needs nothing but those.

        Args:
            feeds: A batch with its targets.

        Returns:
            Their places and targets; None where the loss is no mean over tokens that know nothing
            of each other behind a model's layers.
        """
        ...

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random rows with targets, to trace, prove and measure with.

        Args:
            rng: Source of randomness.
            shape: (rows, tokens).
            token_ids: Token ids to draw from.
            padded: Whether the second half of the last row is padding; else no row has any.
        """
        ...

    def metric(self) -> Metric:
        """A metric that has seen nothing yet."""
        ...

    def predict(self, examples: Sequence[Any], model: Model, options: Any) -> Sequence[Prediction]:
        """Predict for a batch, in its order.

        Args:
            examples: Some of what `examples` gave.
            model: The model, which is run once or, to write a text, many times.
            options: The `prediction_options` that were given.
        """
        ...


class PredictionMetric(Protocol):
    """Figures that take predictions of the model, gathered batch by batch."""

    def check(self, examples: Sequence[Any]) -> None:
        """Check all that will come, before the first batch.

        Args:
            examples: All of what the task's `read` gave.

        Raises:
            DataError: An example has nothing to compare with, or nothing can be predicted for it.
        """
        ...

    def update(self, examples: Sequence[Any]) -> None:
        """Let the model predict for a batch, and compare.

        Args:
            examples: Some of those that were checked.
        """
        ...

    def result(self) -> Figures:
        """The figures over all batches."""
        ...


@runtime_checkable
class JudgesPredictions(Protocol):
    """A task that can also measure what its models predict, which takes longer.

    Attributes:
        evaluation_options: A frozen dataclass, whose fields are the task's options of `evaluate`,
            and flags of the command.
    """

    evaluation_options: ClassVar[type[Any]]

    def prediction_metric(self, model: Model, options: Any) -> PredictionMetric | None:
        """A metric that has seen nothing yet; None where the options ask for none.

        Args:
            model: The model that predicts.
            options: The `evaluation_options` that were given.
        """
        ...


class Talk(Protocol):
    """A conversation with a model."""

    def answer(self, text: str) -> Generator[str, None, None]:
        """Send a message, and give the answer as it is made; closed early, it ends there.

        Raises:
            DataError: The conversation is too long for the model, or its chat template refuses it.
        """
        ...


@runtime_checkable
class Converses(Protocol):
    """A task whose models answer in conversations."""

    def conversation(self, model: Model, options: Any, *, system: str = "") -> Talk:
        """A conversation without a message yet.

        Args:
            model: The model.
            options: The `prediction_options` that were given.
            system: What the model is told before the first message; empty for nothing.

        Raises:
            InputError: The model knows no conversations.
        """
        ...


@runtime_checkable
class StreamsText(Protocol):
    """A task whose predictions are texts that come piece by piece."""

    def stream(self, example: Any, model: Model, options: Any) -> Iterator[str]:
        """Predict for one example, and give the text as it comes.

        Args:
            example: One of what `examples` gave.
            model: The model.
            options: The `prediction_options` that were given.
        """
        ...
