"""Names of classes: in a file of them, in labelled rows, and found by a row's label."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgefuse_devices.errors import DataError
from edgefuse_devices.names import suggest
from edgefuse_runtime.data.lines import read_lines
from edgefuse_runtime.data.rows import Row, read_rows

UNLABELLED = "-1"
"""GLUE's mark of a row without a label."""

LABELLED_ROW = 'A row looks like {"text": "turn on the light", "label": "light_on"}'


class LabelIndex:
    """Finds a class by its name, whatever the name's case where only one class is meant."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Index the names of all classes, in the order of the logits."""
        self._exact = {label: index for index, label in enumerate(labels)}
        self._folded: dict[str, list[int]] = {}
        for label, index in self._exact.items():
            self._folded.setdefault(label.casefold(), []).append(index)

    def find(self, name: str) -> int | None:
        """Index of the class of that name; None where there is none, or more than one."""
        if name in self._exact:
            return self._exact[name]
        indices = self._folded.get(name.casefold(), [])
        return indices[0] if len(indices) == 1 else None


OfRows = Callable[[Path], frozenset[str]]
"""Reads every label of a file of rows."""


def read_labels(path: Path, of_rows: OfRows | None = None) -> list[str] | frozenset[str]:
    """Read the names of all classes.

    Args:
        path: A `.txt` file with a name a line, or labelled rows.
        of_rows: Reads the labels that rows have; None for `labels_of_rows`.

    Returns:
        A list in the order of the `.txt` file; or the names in the rows, which have no order.

    Raises:
        DataError: There is no such file, a row has no label, a line repeats a name, or there are
            fewer than two names.
    """
    if path.suffix != ".txt":
        return (of_rows or labels_of_rows)(path)
    labels = read_lines(path)
    _check_distinct(labels, path)
    _check_count(len(labels), str(path))
    return labels


def labels_of_rows(path: Path) -> frozenset[str]:
    """Every label of a file of labelled rows.

    Raises:
        DataError: There is no such file, the labels do not hold, or there are fewer than two.
    """
    rows = list(read_rows(path, LABELLED_ROW))
    labels = frozenset(labels_of(rows))
    check_labels(labels, rows)
    return labels


def check_labels(labels: Collection[str], rows: Sequence[Row]) -> None:
    """Refuse labels of which a classifier cannot learn anything.

    Args:
        labels: All labels of the rows, each once.
        rows: The rows.

    Raises:
        DataError: They mark rows without a label, are numbers with a decimal point as texts, or
            fewer than two.
    """
    if set(labels) == {UNLABELLED}:
        raise _unlabelled(rows[0])
    if labels and all(_DECIMAL.fullmatch(label) for label in labels):
        raise _decimal(rows[0], rows[0].fields["label"])
    _check_count(len(labels), rows[0].place.rpartition(":")[0])


def labels_of(rows: Iterable[Row]) -> Iterator[str]:
    """The label of each row, as text.

    Raises:
        DataError: A row has none, or one that does not hold; see `LabelNames`.
    """
    names = LabelNames()
    return (names.of(row, row.fields.get("label")) for row in rows)


class LabelNames:
    """Labels of a file as text, which mixes no texts, numbers and truth values.

    1, true and "1" may mean one class or three.
    """

    def __init__(self) -> None:
        """Begin with no label."""
        self._first: tuple[str, str] | None = None

    def of(self, row: Row, label: Any) -> str:
        """A label of a row, as text.

        Raises:
            DataError: There is none, or it is a list, an object or a number with a decimal point,
                or of another kind than those before.
        """
        kind = _kind(row, label)
        self._first = self._first or (kind, row.place)
        if kind != self._first[0]:
            raise DataError(
                f"{row.place} has a label that is {kind}, and that of {self._first[1]} is "
                f"{self._first[0]}",
                "Write all labels of a file alike: as texts, whole numbers or truth values",
            )
        return str(label)


def unknown_label(row: Row, name: str, labels: Sequence[str]) -> DataError:
    """What to say of a label that is none of the model's.

    Args:
        row: The row that has it.
        name: The label.
        labels: The model's labels.
    """
    if name == UNLABELLED:
        return _unlabelled(row)
    return DataError(f"{row.place} has the unknown label {name!r}", suggest(name, labels))


def _unlabelled(row: Row) -> DataError:
    return DataError(
        f"{row.place} has the label -1, with which GLUE marks rows without one",
        "Take a part of the data that has labels, such as the validation set",
    )


_DECIMAL = re.compile(r"[-+]?\d*\.\d+")
_KINDS = {str: "a text", bool: "a truth value", int: "a whole number"}


def _kind(row: Row, label: Any) -> str:
    if label is None or label == "":
        raise DataError(f'{row.place} has no "label"', LABELLED_ROW)
    if isinstance(label, list | dict):
        kind = "a list" if isinstance(label, list) else "an object"
        raise DataError(
            f'{row.place} has a "label" that is {kind}',
            "A label is a text, a whole number or a truth value",
        )
    if isinstance(label, float):
        raise _decimal(row, label)
    return _KINDS[type(label)]


def _decimal(row: Row, label: float | str) -> DataError:
    return DataError(
        f"{row.place} has the label {label}, a number with a decimal point, which is no class",
        'Write classes as names or whole numbers; to learn numbers, call them "score" and export '
        "with --problem-type regression",
    )


def _check_count(count: int, name: str) -> None:
    if count < 2:
        raise DataError(
            f"{name} has only one label" if count else f"{name} has no labels",
            "A classifier needs at least two",
        )


def _check_distinct(labels: Sequence[str], path: Path) -> None:
    first: dict[str, int] = {}
    for number, label in enumerate(labels, start=1):
        if label in first:
            raise DataError(
                f"{path}:{number} repeats the label {label!r} of line {first[label]}",
                "Give each label one line",
            )
        first[label] = number
