"""Figures of merit of a classifier, in numpy."""

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.task import Figures

Classes = NDArray[np.int64]
"""Class index of each row, of shape (rows,)."""

Logits = NDArray[np.float32]
"""Logits of shape (rows, classes)."""


class ClassificationMetric:
    """Accuracy, macro-F1 and loss of a classifier, gathered batch by batch."""

    def __init__(self, classes: int) -> None:
        """Begin with nothing seen.

        Args:
            classes: Count of classes.
        """
        self._right, self._references, self._predictions = np.zeros((3, classes), np.int64)
        self._loss = 0.0

    def update(self, logits: Logits, references: Classes) -> None:
        """Take a batch.

        Args:
            logits: Logits of shape (rows, classes).
            references: Right class of each row, of shape (rows,).
        """
        predictions = logits.argmax(axis=1)
        self._right += self._count(references[predictions == references])
        self._references += self._count(references)
        self._predictions += self._count(predictions)
        rows = np.arange(len(references))
        self._loss -= float(np.sum(_log_softmax(logits)[rows, references]))

    def result(self) -> Figures:
        """The figures, accuracy first."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "loss": self.loss}

    def _count(self, classes: Classes) -> Classes:
        return np.bincount(classes, minlength=len(self._right))

    @property
    def accuracy(self) -> float:
        """Share of rows whose prediction is right."""
        return float(self._right.sum() / self._references.sum())

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur as a reference or a prediction.

        F1 = 2·TP / (2·TP + FP + FN), as scikit-learn's `f1_score(average="macro")`.
        """
        counts = self._references + self._predictions
        occur = counts > 0
        return float(np.mean(2 * self._right[occur] / counts[occur]))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(self._loss / self._references.sum())


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities of shape (rows, classes)."""
    probabilities: NDArray[np.float64] = np.exp(_log_softmax(logits))
    return probabilities


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(
        np.exp(shifted).sum(axis=1, keepdims=True)
    )
    return log_probabilities
