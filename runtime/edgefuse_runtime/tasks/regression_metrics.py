"""Figures of merit of a regression, in numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.classification_metrics import Logits
from edgefuse_runtime.tasks.correlation import pearson, spearman
from edgefuse_runtime.tasks.task import Figures

Numbers = NDArray[np.float64]


class RegressionMetric:
    """Pearson, Spearman, mean absolute error and mean squared error.

    Ranks need all numbers: two a row are kept, and nothing else.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._predictions: list[Numbers] = []
        self._references: list[Numbers] = []

    def update(self, logits: Logits, targets: NDArray[Any]) -> None:
        """Take a batch.

        Args:
            logits: Predictions of shape (rows, 1).
            targets: Right numbers of shape (rows, 1).
        """
        self._predictions.append(logits[:, 0].astype(np.float64))
        self._references.append(targets[:, 0].astype(np.float64))

    def result(self) -> Figures:
        """The figures, Pearson's correlation first; the loss is the mean squared error."""
        predictions, references = map(np.concatenate, (self._predictions, self._references))
        errors = predictions - references
        return {
            "pearson": pearson(predictions, references),
            "spearman": spearman(predictions, references),
            "mean_absolute_error": float(np.abs(errors).mean()),
            "loss": float(np.square(errors).mean()),
        }
