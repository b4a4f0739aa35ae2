"""Loss and perplexity of a language model, in numpy."""

import math

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.task import Figure, Figures

IGNORED = -100
"""Target of a token that does not count, as transformers has it."""

FIGURES = (
    Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    Figure(name="perplexity", title="perplexity", format=",.2f", higher_is_better=False),
)

_HIGHEST = 700.0
"""Loss whose exponential still is a number: JSON has no infinity."""


class NextTokenMetric:
    """Mean cross-entropy of the tokens that count, in nats, and its exponential."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._sum, self._count = 0.0, 0

    def update(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> None:
        """Take a batch, row by row: no array of the logits' size is made beside them.

        Args:
            logits: Logits of shape (rows, tokens, vocabulary).
            targets: Token id that is to follow, or `IGNORED`, of shape (rows, tokens).
        """
        for scores, wanted in zip(logits, targets, strict=True):
            counted = wanted != IGNORED
            chosen = scores[counted]
            chosen -= chosen.max(axis=1, keepdims=True)
            right = chosen[np.arange(len(chosen)), wanted[counted]].astype(np.float64)
            sums = np.exp(chosen, out=chosen).sum(axis=1, dtype=np.float64)
            self._sum += float(np.sum(np.log(sums) - right))
            self._count += len(chosen)

    def result(self) -> Figures:
        """The loss first."""
        loss = self._sum / self._count
        return {"loss": loss, "perplexity": math.exp(min(loss, _HIGHEST))}
