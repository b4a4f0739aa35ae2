"""Text classification: a text or a pair of texts, and a label, several, or a number."""

from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data.asked import rows_asked
from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import pair_of, text_of
from edgefuse_runtime.data.tokenization import (
    TYPE_IDS,
    TokenIds,
    refuse_tokenless,
    tokenize,
    tokenize_pairs,
)
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks.problems.problem import Problem, ProblemMetric, Text
from edgefuse_runtime.tasks.problems.registry import PROBLEMS, ProblemName, every_figure
from edgefuse_runtime.tasks.task import Asked, Figure, Figures, Model, NoOptions, Outputs

TARGET = "labels"
"""The training graph's input that holds what each row says, (batch,) or (batch, labels)."""


class EncodedText(NamedTuple):
    """A tokenized text, or a pair of them.

    Attributes:
        token_ids: Token ids, of shape (tokens,).
        label: What the row says, in the form of its problem type; None where it says nothing.
        shown: `text`, and of a pair `text_pair`, where they are to be shown with a prediction.
        type_ids: 0 for tokens of the first text, 1 for those of the second, of shape (tokens,);
            None of a single text.
    """

    token_ids: TokenIds
    label: Any = None
    shown: dict[str, str] | None = None
    type_ids: TokenIds | None = None


class Metric:
    """The figures of a problem type over the batches of a data file."""

    def __init__(self, metric: ProblemMetric) -> None:
        self._metric = metric

    def update(self, examples: Sequence[EncodedText], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch with its targets."""
        self._metric.update(outputs["logits"], feeds[TARGET])

    def result(self) -> Figures:
        """The figures, the problem type's primary one first."""
        return self._metric.result()


class TextClassification(Tagged, frozen=True, kw_only=True, tag="text-classification"):
    """Labels, or a number, for a text or a pair of texts.

    Attributes:
        labels: What each logit stands for, in their order.
        problem_type: Whether one of the labels holds, any number of them, or the logit is a number.
        pairs: Whether each row has a second text.
        token_types: Whether the graphs take token type ids.
    """

    figures: ClassVar[tuple[Figure, ...]] = every_figure()
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[NoOptions]] = NoOptions

    labels: Annotated[list[str], Meta(min_length=1)]
    problem_type: ProblemName = "single-label"
    pairs: bool = False
    token_types: bool = False

    @property
    def problem(self) -> Problem:
        """The problem type with the labels."""
        return PROBLEMS[self.problem_type](self.labels)

    @property
    def summary(self) -> str:
        """Name of the task, what it gives, and for what."""
        of = " of pairs of texts" if self.pairs else ""
        return f"{self.name}, {self.problem.summary}{of}"

    @property
    def smallest_batch(self) -> int:
        """One row."""
        return 1

    def read(self, file: Path, tokenizer: Tokenizer) -> Iterator[EncodedText]:
        """Read and tokenize rows with `text`, `text_pair` where there are pairs, and a target.

        Raises:
            DataError: A row is broken, or has no token; the message names file and line.
        """
        form = self._form(self.problem.target)
        rows, again = tee(read_rows(file, form))
        for some in chunks(
            # Targets first: they may find at their end that none holds.
            zip(self.problem.targets(again), rows, strict=True),
            lambda pair: pair[1].size,
        ):
            encoded = self._encode([row for _, row in some], form, tokenizer)
            for (target, _), one in zip(some, encoded, strict=True):
                yield one._replace(label=target)

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[EncodedText]:
        """Tokenize texts or pairs to classify.

        Raises:
            DataError: A text is blank, or has no token, or there is one where a pair is needed or
                the other way round.
        """
        form = self._form()
        fields = ("text", "text_pair") if self.pairs else ("text",)
        rows = rows_asked(asked, fields, form)
        encoded = self._encode(rows, form, tokenizer)
        return [
            one._replace(shown={name: row.fields[name] for name in fields})
            for one, row in zip(encoded, rows, strict=True)
        ]

    def collate(self, examples: Sequence[EncodedText], *, padding_id: int) -> Feeds:
        """Token ids, mask and token types, all (batch, tokens), and the targets of a problem."""
        input_ids, mask = pad([example.token_ids for example in examples], padding_id)
        feeds: Feeds = {"input_ids": input_ids, "attention_mask": mask}
        if self.token_types:
            kinds = [one.type_ids for one in examples if one.type_ids is not None]
            feeds[TYPE_IDS], _ = pad(kinds, 0)
        targets = [example.label for example in examples if example.label is not None]
        if targets:
            feeds[TARGET] = self.problem.collate(targets)
        return feeds

    def terms(self, feeds: Feeds) -> float:
        """Count the rows."""
        return len(feeds[TARGET])

    def learned_tokens(self, feeds: Feeds) -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random token ids and random targets."""
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        if self.token_types:
            feeds[TYPE_IDS] = rng.integers(2, size=shape).astype(np.int64)
        return {**feeds, TARGET: self.problem.random_targets(rng, shape[0])}

    def metric(self) -> Metric:
        """The figures of the problem type."""
        return Metric(self.problem.metric())

    def predict(
        self, examples: Sequence[EncodedText], model: Model, options: NoOptions
    ) -> Sequence[Text]:
        """The label, labels or number of each text."""
        logits = model.run(self.collate(examples, padding_id=model.padding_id))["logits"]
        return self.problem.predictions([example.shown or {} for example in examples], logits)

    def _form(self, *target: str) -> str:
        texts = ['"text": "a text"', *(['"text_pair": "another"'] if self.pairs else [])]
        return "A row looks like {" + ", ".join((*texts, *target)) + "}"

    def _encode(self, rows: Sequence[Row], form: str, tokenizer: Tokenizer) -> list[EncodedText]:
        if self.pairs:
            pairs = tokenize_pairs(tokenizer, [pair_of(row, form) for row in rows])
            encoded = [EncodedText(ids, type_ids=kinds) for ids, kinds in pairs]
        else:
            texts = [text_of(row, form) for row in rows]
            encoded = [EncodedText(ids) for ids in tokenize(tokenizer, texts)]
        refuse_tokenless([one.token_ids for one in encoded], [row.place for row in rows])
        return encoded
