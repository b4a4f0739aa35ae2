"""Texts of a data file, without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import numbered_lines, read_data
from edgefuse_runtime.data.rows import Row, read_rows

_FORM = 'A row looks like {"text": "turn on the light"}'


def read_texts(path: Path) -> list[str]:
    """Read a file of texts whose labels, if any, do not matter.

    Args:
        path: A `.txt` file with a text a line, blank lines skipped; or JSON lines with a `text`.

    Raises:
        DataError: There is no such file, a row is broken or has no text, or there is no text.
    """
    if path.suffix != ".txt":
        return [text_of(row, _FORM) for row in read_rows(path, _FORM)]
    lines = numbered_lines(read_data(path), str(path))
    texts = [line for _, line in lines if line.strip()]
    if not texts:
        raise DataError(f"{path} has no text", "Give a .jsonl or .txt file of example texts")
    return texts


def read_lines(path: Path) -> list[str]:
    """Read a file of texts, one a line; blank lines at the end do not count.

    Raises:
        DataError: There is no such file, it is not UTF-8, it has no text, or a line is blank.
    """
    return split_lines(read_data(path), str(path))


def split_lines(raw: bytes, name: str) -> list[str]:
    """Split UTF-8 text into lines as `read_lines` does; `name` stands for the file in errors."""
    texts = [line for _, line in numbered_lines(raw, name)]
    if not texts:
        raise DataError(f"{name} has no text", "Give one text a line")
    refuse_blank(texts, name)
    return texts


def refuse_blank(texts: Sequence[str], name: str) -> None:
    """Refuse texts that are blank.

    Raises:
        DataError: One is; the message names it `NAME:2`, say.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"{name}:{number} is blank", "Give one text a line")


def texts_of(asked: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """The texts to predict for, given as they are or as rows with a `text`.

    Raises:
        DataError: One is blank, or a row has none.
    """
    texts = [
        one if isinstance(one, str) else text_of(Row(f"text:{number}", dict(one)), _FORM)
        for number, one in enumerate(asked, start=1)
    ]
    refuse_blank(texts, "text")
    return texts


def text_of(row: Row, form: str) -> str:
    """The text of a row.

    Raises:
        DataError: It has none, or a second one in `text_pair`.
    """
    text = row.fields.get("text")
    if not isinstance(text, str):
        raise DataError(f'{row.place} has no "text"', form)
    if not text.strip():
        raise DataError(f'{row.place} has an empty "text"', "Remove the row, or give it a text")
    refuse_pair(row)
    return text


def refuse_pair(row: Row) -> None:
    """Refuse a row with a second text, which would be dropped.

    Raises:
        DataError: It has one.
    """
    if row.fields.get("text_pair") is not None:
        raise DataError(
            f'{row.place} has a "text_pair", and pairs of texts are not supported yet',
            'Write both into one "text", or leave the second out',
        )
