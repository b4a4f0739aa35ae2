"""Labelled texts as JSON lines: {"text": …, "label": …}, a row a line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgefuse_devices.errors import DataError
from edgefuse_devices.names import suggest

_FORM = 'A row looks like {"text": "turn on the light", "label": "light_on"}'


class Example(NamedTuple):
    """A row.

    Attributes:
        text: What is classified; never blank.
        label: Index into the bundle's labels.
    """

    text: str
    label: int


def read_examples(path: Path, labels: Sequence[str]) -> list[Example]:
    """Read a file of labelled texts.

    UTF-8 with or without a byte-order mark, lines that end as Unix's or Windows' do, blank ones at
    the end. A label may be written as a number or a truth value where its text is one of `labels`.
    Other keys of a row are ignored.

    Args:
        path: The file.
        labels: Every label, in the order of the logits.

    Raises:
        DataError: There is no such file, it has no row, or a row is broken; it names file and line.
    """
    index = {label: position for position, label in enumerate(labels)}
    examples = [Example(_text(row, place), _label(row, index, place)) for place, row in _rows(path)]
    if not examples:
        raise DataError(f"{path} has no rows", _FORM)
    return examples


def read_labels(path: Path) -> list[str]:
    """Every label that a file has, in the order that the logits shall have.

    Args:
        path: A `.txt` file with a label a line, whose order is kept; or JSON lines, whose labels
            are sorted.

    Raises:
        DataError: There is no such file, a row has no label, a line repeats a label, or there are
            fewer than two labels.
    """
    if path.suffix != ".txt":
        return labels_of_rows(path)
    labels = read_lines(path)
    _check_distinct(labels, path)
    return _enough(labels, path)


def labels_of_rows(path: Path) -> list[str]:
    """Every label of a file of JSON lines, sorted.

    Raises:
        DataError: There is no such file, a row has no label, or there are fewer than two labels.
    """
    labels = sorted({_label_text(row.get("label"), place) for place, row in _rows(path)})
    return _enough(labels, path)


def _enough(labels: list[str], path: Path) -> list[str]:
    if len(labels) < 2:
        count = "only one label" if labels else "no labels"
        raise DataError(f"{path} has {count}", "A classifier needs at least two")
    return labels


def read_texts(path: Path) -> list[str]:
    """Read a file of texts whose labels, if any, do not matter.

    Args:
        path: A `.txt` file with a text a line, blank lines skipped; or JSON lines with a `text`.

    Raises:
        DataError: There is no such file, a row is broken or has no text, or there is no text.
    """
    if path.suffix == ".txt":
        lines = [_decoded(line, f"{path}:{number}") for number, line in _numbered(_read(path))]
        texts = [line for line in lines if line.strip()]
    else:
        texts = [_text(row, place) for place, row in _rows(path)]
    if not texts:
        raise DataError(f"{path} has no text", "Give a .jsonl or .txt file of example texts")
    return texts


def read_lines(path: Path) -> list[str]:
    """Read a file of texts, one a line; blank lines at the end do not count.

    Raises:
        DataError: There is no such file, it is not UTF-8, it has no text, or a line is blank.
    """
    return split_lines(_read(path), str(path))


def split_lines(raw: bytes, name: str) -> list[str]:
    """Split UTF-8 text into lines as `read_lines` does; `name` is what errors call it."""
    texts = [_decoded(line, f"{name}:{number}") for number, line in _numbered(raw)]
    if not texts:
        raise DataError(f"{name} has no text", "Give one text a line")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"{name}:{number} is blank", "Give one text a line")
    return texts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "Check the path of the data file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Name a data file") from error


def _numbered(raw: bytes) -> Iterator[tuple[int, bytes]]:
    lines = raw.removeprefix(b"\xef\xbb\xbf").rstrip().replace(b"\r\n", b"\n")
    return enumerate(lines.split(b"\n") if lines else [], start=1)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _numbered(_read(path)):
        place = f"{path}:{number}"
        if not line.strip():
            raise DataError(f"{place} is an empty row", _FORM)
        try:
            row = msgspec.json.decode(_decoded(line, place))
        except msgspec.DecodeError as error:
            raise DataError(f"{place} is broken JSON: {error}", _FORM) from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is not a JSON object", _FORM)
        yield place, row


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8: {error.reason}", "Save it as UTF-8") from error


def _check_distinct(labels: Sequence[str], path: Path) -> None:
    first: dict[str, int] = {}
    for number, label in enumerate(labels, start=1):
        if label in first:
            raise DataError(
                f"{path}:{number} repeats the label {label!r} of line {first[label]}",
                "Give each label one line",
            )
        first[label] = number


def _text(row: dict[str, Any], place: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(f'{place} has no "text"', _FORM)
    if not text.strip():
        raise DataError(f'{place} has an empty "text"', "Remove the row, or give it a text")
    return text


def _label(row: dict[str, Any], index: dict[str, int], place: str) -> int:
    label = row.get("label")
    _label_text(label, place)
    # JSON's true is Python's True: either spelling may be the label's name.
    names = [str(label), msgspec.json.encode(label).decode()]
    for name in names:
        if name in index:
            return index[name]
    raise DataError(f"{place} has the unknown label {label!r}", suggest(str(label), index.keys()))


def _label_text(label: object, place: str) -> str:
    if label is None or label == "":
        raise DataError(f'{place} has no "label"', _FORM)
    if isinstance(label, list | dict):
        raise DataError(
            f'{place} has a "label" that is {"a list" if isinstance(label, list) else "an object"}',
            "A label is a text, a number or a truth value",
        )
    return str(label)
