"""A number for a text."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.rows import Row
from edgefuse_runtime.tasks.problems.problem import Logits, Text
from edgefuse_runtime.tasks.regression_metrics import RegressionMetric
from edgefuse_runtime.tasks.task import Figure

_FORM = 'A row looks like {"text": "a fine lamp", "score": 4.5}'
_UNLABELLED = -1


class Prediction(Text, frozen=True, kw_only=True):
    """What a regression makes of a text.

    Attributes:
        score: The number.
    """

    score: float

    def __str__(self) -> str:
        """Number and text, with a tab between."""
        return self.after(f"{self.score:.3f}")


class Regression:
    """A number for a text."""

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="pearson", title="Pearson", format=".3f"),
        Figure(name="spearman", title="Spearman", format=".3f"),
        Figure(
            name="mean_absolute_error",
            title="mean absolute error",
            format=".4g",
            higher_is_better=False,
        ),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    )
    target: ClassVar[str] = '"score": 4.5'

    def __init__(self, labels: Sequence[str]) -> None:
        pass

    @property
    def summary(self) -> str:
        """What a text gets."""
        return "a number"

    @staticmethod
    def labels_of(rows: Sequence[Row]) -> list[str]:
        """One number has one name."""
        deque(Regression(()).targets(rows), maxlen=0)  # which checks them
        return ["score"]

    def targets(self, rows: Iterable[Row]) -> Iterator[float]:
        """The score of each row."""
        place, labelled = "", False
        for row in rows:
            score = score_of(row)
            place, labelled = place or row.place, labelled or score != _UNLABELLED
            yield score
        if place and not labelled:
            raise DataError(
                f"{place} has the score -1, and so have all rows: GLUE marks those without "
                "a score so",
                "Take a part of the data that has scores, such as the validation set",
            )

    def collate(self, targets: Sequence[float]) -> NDArray[np.float32]:
        """Scores, (rows, 1)."""
        return np.array(targets, np.float32)[:, None]

    def random_targets(self, rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
        """Random scores, (rows, 1)."""
        return rng.random((rows, 1), np.float32)

    def metric(self) -> RegressionMetric:
        """Pearson, Spearman, mean absolute error and loss."""
        return RegressionMetric()

    def predictions(self, texts: Sequence[dict[str, str]], logits: Logits) -> list[Prediction]:
        """The number of each text."""
        scores = logits[:, 0].tolist()
        return [Prediction(score=score, **one) for one, score in zip(texts, scores, strict=True)]


def score_of(row: Row) -> float:
    """The score of a row: a number, or a text that says one, as in CSV.

    Raises:
        DataError: It has none, or one that is not finite.
    """
    score = row.fields.get("score")
    if score is None:
        named = "label" in row.fields
        raise DataError(
            f'{row.place} has no "score"', f'{_FORM}; call "label" so' if named else _FORM
        )
    try:
        number = math.nan if isinstance(score, bool) else float(score)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f'{row.place} has a "score" that is no number: {score!r}', _FORM)
    return number
