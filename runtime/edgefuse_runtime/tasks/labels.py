"""Names of classes: in a file of them, in labelled rows, and found by a row's label."""

from collections.abc import Sequence
from pathlib import Path

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import read_lines, refuse_pair

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


def read_labels(path: Path) -> list[str] | frozenset[str]:
    """Read the names of all classes.

    Args:
        path: A `.txt` file with a name a line, or labelled rows as JSON lines.

    Returns:
        A list in the order of the `.txt` file; or the names in the rows, which have no order.

    Raises:
        DataError: There is no such file, a row has no label, a line repeats a name, or there are
            fewer than two names.
    """
    if path.suffix != ".txt":
        return labels_of_rows(path)
    labels = read_lines(path)
    _check_distinct(labels, path)
    _check_count(len(labels), path)
    return labels


def labels_of_rows(path: Path) -> frozenset[str]:
    """Every label of a file of labelled rows.

    Raises:
        DataError: There is no such file, a row has no label or a second text, or there are fewer
            than two labels.
    """
    rows = read_rows(path, LABELLED_ROW)
    for row in rows:
        refuse_pair(row)
    labels = frozenset(map(label_of, rows))
    _check_count(len(labels), path)
    return labels


def label_of(row: Row) -> str:
    """The label of a row, as text.

    Raises:
        DataError: It has none, or one that is a list or an object.
    """
    label = row.fields.get("label")
    if label is None or label == "":
        raise DataError(f'{row.place} has no "label"', LABELLED_ROW)
    if isinstance(label, list | dict):
        kind = "a list" if isinstance(label, list) else "an object"
        raise DataError(
            f'{row.place} has a "label" that is {kind}',
            "A label is a text, a number or a truth value",
        )
    return str(label)


def _check_count(count: int, path: Path) -> None:
    if count < 2:
        raise DataError(
            f"{path} has only one label" if count else f"{path} has no labels",
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
