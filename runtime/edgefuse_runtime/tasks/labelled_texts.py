"""Labelled texts: {"text": …, "label": …}, a row a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgefuse_devices.errors import DataError
from edgefuse_devices.names import suggest
from edgefuse_runtime.data.rows import read_rows
from edgefuse_runtime.data.texts import text_of
from edgefuse_runtime.tasks.labels import (
    LABELLED_ROW,
    UNLABELLED,
    LabelIndex,
    labels_of,
    unlabelled,
)


class LabelledText(NamedTuple):
    """A labelled text.

    Attributes:
        text: Text to classify; never blank.
        label: Index into the bundle's labels.
    """

    text: str
    label: int


def read_examples(path: Path, labels: Sequence[str]) -> list[LabelledText]:
    """Read a file of labelled texts.

    A label may be written as a number or a truth value where its text is one of `labels`, and in
    another case where only one of them is meant. Fields of a row other than `text`, `text_pair`
    and `label` are ignored.

    Args:
        path: A file of rows.
        labels: Names of all classes, in the order of the logits.

    Raises:
        DataError: The file cannot be read, or a row is broken; the message names file and line.
    """
    index = LabelIndex(labels)
    examples = []
    rows = read_rows(path, LABELLED_ROW)
    texts = [text_of(row, LABELLED_ROW) for row in rows]
    for row, text, name in zip(rows, texts, labels_of(rows), strict=True):
        label = index.find(name)
        if label is None:
            if name == UNLABELLED:
                raise unlabelled(row)
            raise DataError(f"{row.place} has the unknown label {name!r}", suggest(name, labels))
        examples.append(LabelledText(text, label))
    return examples
