"""Any number of several labels for a text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.cells import decoded_cell
from edgefuse_runtime.data.rows import Row
from edgefuse_runtime.tasks.labels import LabelIndex, LabelNames, check_labels, unknown_label
from edgefuse_runtime.tasks.multi_label_metrics import MultiLabelMetric, sigmoid
from edgefuse_runtime.tasks.problems.problem import Logits, Text
from edgefuse_runtime.tasks.task import Figure

THRESHOLD = 0.5
"""Probability above which a label holds."""

_FORM = (
    'A row looks like {"text": "turn on the kitchen light", "label": ["light", "kitchen"]}; in CSV '
    "the cell is light,kitchen in quotes, or a JSON list"
)


class Prediction(Text, frozen=True, kw_only=True):
    """What a classifier of several labels makes of a text.

    Attributes:
        labels: The labels whose probability is above 0.5, in the order of the logits.
        probabilities: Probability of every label.
    """

    labels: list[str]
    probabilities: dict[str, float]

    def __str__(self) -> str:
        """Labels with their probabilities, and the text, with tabs between."""
        found = [f"{label} {self.probabilities[label]:.3f}" for label in self.labels]
        return self.after(", ".join(found) or "-")


class MultiLabel:
    """Any number of several labels for a text."""

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="micro_f1", title="micro-F1", format=".3f"),
        Figure(name="macro_f1", title="macro-F1", format=".3f"),
        Figure(name="exact_match", title="exact match", format=".1%"),
        Figure(name="loss", title="loss", format=".4f", higher_is_better=False),
    )
    target: ClassVar[str] = '"label": ["light", "kitchen"]'

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels

    @property
    def summary(self) -> str:
        """Count of the labels."""
        return f"any of {len(self._labels)} labels"

    @staticmethod
    def labels_of(rows: Sequence[Row]) -> frozenset[str]:
        """Every label that a row has."""
        labels = frozenset(name for names in label_lists(rows) for name in names)
        check_labels(labels, rows)
        return labels

    def targets(self, rows: Iterable[Row]) -> Iterator[NDArray[np.float32]]:
        """1 for each label that a row has, 0 for the others; see `SingleLabel.targets`."""
        index, names = LabelIndex(self._labels), LabelNames()
        for row in rows:
            held = np.zeros(len(self._labels), np.float32)
            for given in _list(row):
                name = names.of(row, given)
                label = index.find(name)
                if label is None:
                    raise unknown_label(row, name, self._labels)
                held[label] = 1
            yield held

    def collate(self, targets: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """1 and 0, (rows, labels)."""
        return np.stack(targets)

    def random_targets(self, rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
        """Random 1 and 0, (rows, labels)."""
        return rng.integers(2, size=(rows, len(self._labels))).astype(np.float32)

    def metric(self) -> MultiLabelMetric:
        """Micro-F1, macro-F1, exact match and loss."""
        return MultiLabelMetric(len(self._labels))

    def predictions(self, texts: Sequence[dict[str, str]], logits: Logits) -> list[Prediction]:
        """The labels of each text whose probability is above 0.5."""
        found = []
        for one, row in zip(texts, sigmoid(logits), strict=True):
            probabilities = dict(zip(self._labels, row.tolist(), strict=True))
            labels = [label for label, value in probabilities.items() if value > THRESHOLD]
            found.append(Prediction(labels=labels, probabilities=probabilities, **one))
        return found


def label_lists(rows: Iterable[Row]) -> Iterator[list[str]]:
    """The labels of each row, as text.

    Raises:
        DataError: A row has no list of labels, or the labels are of several kinds.
    """
    names = LabelNames()
    return ([names.of(row, given) for given in _list(row)] for row in rows)


def _list(row: Row) -> list[Any]:
    """A list as it is, or what a cell of CSV says: a JSON list, or names with commas between."""
    label = row.fields.get("label")
    if isinstance(label, str) and label.lstrip().startswith("["):
        label = decoded_cell(label, "label", row.place)
    if isinstance(label, str):
        return [name.strip() for name in label.split(",") if name.strip()]
    if label is None:
        raise DataError(f'{row.place} has no "label"', f"{_FORM}; [] is a text without any label")
    if not isinstance(label, list):
        raise DataError(f'{row.place} has a "label" that is no list', _FORM)
    return label
