"""Text classification: a text, a label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.texts import texts_of
from edgefuse_runtime.data.tokenization import TokenIds, refuse_empty, tokenize
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks.classification_metrics import ClassificationMetric, softmax
from edgefuse_runtime.tasks.labelled_texts import read_examples
from edgefuse_runtime.tasks.task import Asked, Figure, Figures, Model, NoOptions, Outputs

TARGET = "labels"
"""The training graph's input that holds the class of each row, (batch,)."""


class EncodedText(NamedTuple):
    """A tokenized text.

    Attributes:
        token_ids: Token ids, of shape (tokens,).
        label: Class index; None where there is none.
        text: The text, where it is to be shown with a prediction.
    """

    token_ids: TokenIds
    label: int | None = None
    text: str = ""


class Prediction(Struct, frozen=True, kw_only=True):
    """What a classifier makes of a text.

    Attributes:
        text: The text as given.
        label: The most probable label.
        probability: Probability of that label.
    """

    text: str
    label: str
    probability: float

    def __str__(self) -> str:
        """Label, probability and text, with tabs between."""
        return f"{self.label}\t{self.probability:.3f}\t{self.text}"


class Metric:
    """Accuracy, macro-F1 and loss over the batches of a data file."""

    def __init__(self, classes: int) -> None:
        self._metric = ClassificationMetric(classes)

    def update(self, examples: Sequence[EncodedText], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch with its labels."""
        self._metric.update(outputs["logits"], feeds[TARGET])

    def result(self) -> Figures:
        """The figures, accuracy first."""
        metric = self._metric
        return {"accuracy": metric.accuracy, "macro_f1": metric.macro_f1, "loss": metric.loss}


class TextClassification(Tagged, frozen=True, kw_only=True, tag="text-classification"):
    """One of several labels for a text.

    Attributes:
        labels: Label of each class, in the order of the logits.
    """

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="accuracy", title="accuracy", format=".1%"),
        Figure(name="macro_f1", title="macro-F1", format=".3f"),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    )

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[NoOptions]] = NoOptions

    labels: Annotated[list[str], Meta(min_length=1)]

    @property
    def summary(self) -> str:
        """Name of the task, and count of the classes."""
        return f"{self.name}, {len(self.labels)} classes"

    def read(self, file: Path, tokenizer: Tokenizer) -> list[EncodedText]:
        """Read and tokenize JSON lines with `text` and `label`.

        Raises:
            DataError: A row is broken, or has no token; the message names file and line.
        """
        rows = read_examples(file, self.labels)
        token_ids = tokenize(tokenizer, [row.text for row in rows])
        refuse_empty(token_ids, str(file))
        return [EncodedText(ids, row.label) for ids, row in zip(token_ids, rows, strict=True)]

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[EncodedText]:
        """Tokenize texts to classify.

        Raises:
            DataError: A text is blank, or has no token.
        """
        texts = texts_of(asked)
        token_ids = tokenize(tokenizer, texts)
        refuse_empty(token_ids, "text")
        return [EncodedText(ids, text=text) for ids, text in zip(token_ids, texts, strict=True)]

    def collate(self, examples: Sequence[EncodedText], *, padding_id: int) -> Feeds:
        """Token ids and mask, both (batch, tokens), and the labels (batch,) where there are any."""
        input_ids, mask = pad([example.token_ids for example in examples], padding_id)
        feeds: Feeds = {"input_ids": input_ids, "attention_mask": mask}
        labels = [example.label for example in examples if example.label is not None]
        if labels:
            feeds[TARGET] = np.array(labels, np.int64)
        return feeds

    def terms(self, feeds: Feeds) -> float:
        """Count the rows."""
        return len(feeds[TARGET])

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random token ids and random labels."""
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        labels = rng.integers(len(self.labels), size=shape[0])
        return {**feeds, TARGET: labels.astype(np.int64)}

    def metric(self) -> Metric:
        """Accuracy, macro-F1 and loss."""
        return Metric(len(self.labels))

    def predict(
        self, examples: Sequence[EncodedText], model: Model, options: NoOptions
    ) -> list[Prediction]:
        """The most probable label of each text, and its probability."""
        logits = model.run(self.collate(examples, padding_id=model.padding_id))["logits"]
        return [
            Prediction(text=one.text, label=self.labels[row.argmax()], probability=float(row.max()))
            for one, row in zip(examples, softmax(logits), strict=True)
        ]
