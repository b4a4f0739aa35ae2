"""Figures of merit of tagged words, in numpy: entities as seqeval counts them."""

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.tagging import Classes, Tagging

Logits = NDArray[np.float32]
"""Logits of shape (words, classes)."""


class EntityMetric:
    """Precision, recall and F1 of entities, accuracy and loss of words, gathered batch by batch.

    An entity is found where its first word, its last one and its type are right. The three figures
    are over the entities of all types together, as seqeval's `average="micro"`.
    """

    def __init__(self, tagging: Tagging) -> None:
        """Begin with nothing seen.

        Args:
            tagging: What each class says of a word.
        """
        self._tagging = tagging
        self._found = self._predicted = self._expected = 0
        self._right = self._words = 0
        self._loss = 0.0

    def update(self, logits: Logits, references: Classes, rows: Classes) -> None:
        """Take some rows, one after the other.

        Args:
            logits: Logits of shape (words, classes).
            references: Right class of each word, of shape (words,).
            rows: Index of each word's row, of shape (words,).
        """
        predictions = logits.argmax(axis=1)
        predicted = self._tagging.entities(predictions, rows)
        expected = self._tagging.entities(references, rows)
        _, one, other = np.intersect1d(predicted[:, 0], expected[:, 0], return_indices=True)
        self._found += int(np.all(predicted[one] == expected[other], axis=1).sum())
        self._predicted += len(predicted)
        self._expected += len(expected)
        self._right += int(np.sum(predictions == references))
        self._words += len(references)
        self._loss += float(np.sum(_cross_entropy(logits, references)))

    @property
    def precision(self) -> float:
        """Share of the predicted entities that are right; 0 where none is predicted."""
        return self._found / max(self._predicted, 1)

    @property
    def recall(self) -> float:
        """Share of the expected entities that are found; 0 where none is expected."""
        return self._found / max(self._expected, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where there are no entities."""
        return 2 * self._found / max(self._predicted + self._expected, 1)

    @property
    def accuracy(self) -> float:
        """Share of words whose tag is right."""
        return self._right / self._words

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a word in nats."""
        return self._loss / self._words


def _cross_entropy(logits: Logits, references: Classes) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, references[:, None], axis=1)[:, 0]
    values: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - right
    return values
