"""Token classification: a tag for each word of a text, and the entities that the tags spell."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data.asked import rows_asked
from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.texts import text_of
from edgefuse_runtime.data.words import Window, Words, encode_words, split_texts
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks.encoded_tags import (
    IGNORED,
    EncodedWords,
    read_encoded,
    refuse_unknown,
)
from edgefuse_runtime.tasks.entity_metrics import EntityMetric
from edgefuse_runtime.tasks.found_entities import Prediction, find_entities
from edgefuse_runtime.tasks.tagged_rows import FORM, words_of
from edgefuse_runtime.tasks.tagging import Tagging
from edgefuse_runtime.tasks.task import Asked, Figure, Figures, Model, NoOptions, Outputs

TARGET = "labels"
"""The training graph's input that holds the class of each token, (batch, tokens)."""


class Metric:
    """Figures of entities and words over the batches of a data file."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._metric = EntityMetric(Tagging(labels))
        self._unread = 0

    def update(self, examples: Sequence[EncodedWords], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch with its classes."""
        classes = feeds[TARGET]
        counted = classes != IGNORED
        rows = np.nonzero(counted)[0]
        self._metric.update(outputs["logits"][counted], classes[counted], rows)
        self._unread += sum(example.unread for example in examples)

    def result(self) -> Figures:
        """The figures, F1 first."""
        metric = self._metric
        return {
            "f1": metric.f1,
            "precision": metric.precision,
            "recall": metric.recall,
            "accuracy": metric.accuracy,
            "loss": metric.loss,
            "unread_words": self._unread,
        }


class TokenClassification(Tagged, frozen=True, kw_only=True, tag="token-classification"):
    """A tag for each word of a text.

    Attributes:
        labels: Tag of each class, in the order of the logits.
    """

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="f1", title="F1 of entities", format=".1%"),
        Figure(name="precision", title="precision", format=".1%"),
        Figure(name="recall", title="recall", format=".1%"),
        Figure(name="accuracy", title="accuracy of words", format=".1%"),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
        Figure(name="unread_words", title="words cut off", format=",.0f", higher_is_better=False),
    )

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[NoOptions]] = NoOptions

    labels: Annotated[list[str], Meta(min_length=1)]

    @property
    def summary(self) -> str:
        """Name of the task, and count of the tags."""
        return f"{self.name}, {len(self.labels)} tags"

    @property
    def smallest_batch(self) -> int:
        """One row."""
        return 1

    def read(self, file: Path, tokenizer: Tokenizer) -> Iterator[EncodedWords]:
        """Read and tokenize rows of tagged words, or of texts with entities.

        A long row is cut, and its words that are cut off do not count.

        Raises:
            DataError: A row is broken, has no word that the tokenizer knows, an unknown tag or one
                that breaks the scheme; the message names file and line.
        """
        return read_encoded(file, tokenizer, Tagging(self.labels))

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[Words]:
        """Tokenize texts, or rows with `tokens` or a `text`, to find entities in.

        Raises:
            DataError: A text is blank, or has no token, or a row has neither.
        """
        found = []
        for row in rows_asked(asked, ("text",), FORM):
            if row.fields.get("tokens") is not None:
                (words,) = encode_words(tokenizer, [words_of(row)])
            else:
                (words,) = split_texts(tokenizer, [text_of(row, FORM)])
            refuse_unknown(words, row.place)
            found.append(words)
        return found

    def collate(self, examples: Sequence[EncodedWords | Words], *, padding_id: int) -> Feeds:
        """Token ids, mask and, where they are known, classes, all (batch, tokens)."""
        input_ids, mask = pad([example.token_ids for example in examples], padding_id)
        feeds: Feeds = {"input_ids": input_ids, "attention_mask": mask}
        given = [example.classes for example in examples if isinstance(example, EncodedWords)]
        classes = [row for row in given if row is not None]
        if classes:
            feeds[TARGET], _ = pad(classes, IGNORED)
        return feeds

    def terms(self, feeds: Feeds) -> float:
        """Count the words."""
        return int(np.count_nonzero(feeds[TARGET] != IGNORED))

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
        """A batch of random token ids, about two in three of which are first pieces of words."""
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        classes = rng.integers(len(self.labels), size=shape).astype(np.int64)
        first = (rng.random(shape) < 2 / 3) & (feeds["attention_mask"] > 0)
        first[:, 0] = True  # every row has a word
        return {**feeds, TARGET: np.where(first, classes, IGNORED)}

    def metric(self) -> Metric:
        """F1, precision and recall of entities, accuracy and loss of words."""
        return Metric(self.labels)

    def predict(
        self, examples: Sequence[Words], model: Model, options: NoOptions
    ) -> list[Prediction]:
        """The entities in each text; one that is too long to be read at once is read in windows."""
        tagging = Tagging(self.labels)
        windows = [window for example in examples for window in example.windows]
        logits = self._logits(windows, model, batch_size=len(examples))
        return [
            find_entities(example, [next(logits) for _ in example.windows], tagging)
            for example in examples
        ]

    def _logits(
        self, windows: Sequence[Window], model: Model, *, batch_size: int
    ) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(windows), batch_size):
            batch = [EncodedWords(one.token_ids) for one in windows[start : start + batch_size]]
            yield from model.run(self.collate(batch, padding_id=model.padding_id))["logits"]
