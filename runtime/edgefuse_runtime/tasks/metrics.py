"""Figures of merit of a classifier, in numpy."""

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.int64]
"""Class index of each row, of shape (rows,)."""

Logits = NDArray[np.float32]
"""Of shape (rows, classes)."""


def accuracy(references: Classes, predictions: Classes) -> float:
    """Share of rows whose prediction is right."""
    return float(np.mean(references == predictions))


def macro_f1(references: Classes, predictions: Classes) -> float:
    """Mean F1 over the classes that occur in either, as scikit-learn's `f1_score(average="macro")`.

    F1 = 2·TP / (2·TP + FP + FN); the denominator counts the class in both arrays.
    """
    classes = np.union1d(references, predictions)
    scores = [
        2
        * np.sum((references == c) & (predictions == c))
        / (np.sum(references == c) + np.sum(predictions == c))
        for c in classes
    ]
    return float(np.mean(scores))


def cross_entropy(logits: Logits, references: Classes) -> float:
    """Mean cross-entropy in nats."""
    return float(-np.mean(_log_softmax(logits)[np.arange(len(references)), references]))


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
