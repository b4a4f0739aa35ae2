"""One of several labels for a text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.data.rows import Row
from edgefuse_runtime.tasks.classification_metrics import ClassificationMetric, softmax
from edgefuse_runtime.tasks.labels import (
    LabelIndex,
    LabelNames,
    check_labels,
    labels_of,
    unknown_label,
)
from edgefuse_runtime.tasks.problems.problem import Logits, Text
from edgefuse_runtime.tasks.task import Figure


class Prediction(Text, frozen=True, kw_only=True):
    """What a classifier makes of a text.

    Attributes:
        label: The most probable label.
        probability: Probability of that label.
    """

    label: str
    probability: float

    def __str__(self) -> str:
        """Label, probability and text, with tabs between."""
        return self.after(f"{self.label}\t{self.probability:.3f}")


class SingleLabel:
    """One of several labels for a text."""

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="accuracy", title="accuracy", format=".1%"),
        Figure(name="macro_f1", title="macro-F1", format=".3f"),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    )
    target: ClassVar[str] = '"label": "light_on"'

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels

    @property
    def summary(self) -> str:
        """Count of the labels."""
        return f"{len(self._labels)} classes"

    @staticmethod
    def labels_of(rows: Sequence[Row]) -> frozenset[str]:
        """The labels of the rows."""
        labels = frozenset(labels_of(rows))
        check_labels(labels, rows)
        return labels

    def targets(self, rows: Iterable[Row]) -> Iterator[int]:
        """Index of each row's label.

        A label may be written as a number or a truth value where its text is a label, and in
        another case where only one is meant.
        """
        index, names = LabelIndex(self._labels), LabelNames()
        for row in rows:
            name = names.of(row, row.fields.get("label"))
            label = index.find(name)
            if label is None:
                raise unknown_label(row, name, self._labels)
            yield label

    def collate(self, targets: Sequence[int]) -> NDArray[np.int64]:
        """Indices, (rows,)."""
        return np.array(targets, np.int64)

    def random_targets(self, rng: np.random.Generator, rows: int) -> NDArray[np.int64]:
        """Random indices, (rows,)."""
        return rng.integers(len(self._labels), size=rows).astype(np.int64)

    def metric(self) -> ClassificationMetric:
        """Accuracy, macro-F1 and loss."""
        return ClassificationMetric(len(self._labels))

    def predictions(self, texts: Sequence[dict[str, str]], logits: Logits) -> list[Prediction]:
        """The most probable label of each text, and its probability."""
        return [
            Prediction(label=self._labels[row.argmax()], probability=float(row.max()), **one)
            for one, row in zip(texts, softmax(logits), strict=True)
        ]
