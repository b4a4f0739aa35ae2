"""Figures of merit of a classifier of any number of labels, in numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.classification_metrics import Logits
from edgefuse_runtime.tasks.task import Figures


class MultiLabelMetric:
    """Micro-F1, macro-F1, exact match and loss, gathered batch by batch.

    A label is predicted where its probability is above 0.5. F1 = 2·TP / (2·TP + FP + FN), 0 where
    a label neither occurs nor is predicted, as scikit-learn's `f1_score` has it.
    """

    def __init__(self, labels: int) -> None:
        """Begin with nothing seen.

        Args:
            labels: Count of labels.
        """
        self._right, self._references, self._predictions = np.zeros((3, labels), np.int64)
        self._rows = self._exact = 0
        self._loss = 0.0

    def update(self, logits: Logits, targets: NDArray[Any]) -> None:
        """Take a batch.

        Args:
            logits: Logits of shape (rows, labels).
            targets: 1 for each label that holds, else 0, of shape (rows, labels).
        """
        predicted, held = logits > 0, targets > 0
        self._right += (predicted & held).sum(axis=0)
        self._references += held.sum(axis=0)
        self._predictions += predicted.sum(axis=0)
        self._exact += int((predicted == held).all(axis=1).sum())
        self._rows += len(logits)
        wide = logits.astype(np.float64)
        self._loss += float(np.mean(np.logaddexp(0, wide) - wide * targets, axis=1).sum())

    def result(self) -> Figures:
        """The figures, micro-F1 first; the loss is the mean binary cross-entropy in nats."""
        counts = self._references + self._predictions
        f1 = 2 * self._right / np.maximum(counts, 1)
        return {
            "micro_f1": float(2 * self._right.sum() / max(counts.sum(), 1)),
            "macro_f1": float(f1.mean()),
            "exact_match": self._exact / self._rows,
            "loss": self._loss / self._rows,
        }


def sigmoid(logits: Logits) -> NDArray[np.float64]:
    """Probabilities, each of its own, of shape (rows, labels)."""
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return probabilities
