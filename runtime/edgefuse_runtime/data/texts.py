"""Texts of rows: all that a data file has, whatever its task, and single fields."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.asked import Asked, rows_asked
from edgefuse_runtime.data.cells import list_in
from edgefuse_runtime.data.data_file import numbered
from edgefuse_runtime.data.rows import Row, read_rows

_FORM = 'A row looks like {"text": "turn on the light"}'

_FIELDS = (
    "text",
    "text_pair",
    "question",
    "context",
    "prompt",
    "completion",
    "anchor",
    "positive",
    "negative",
)
"""Fields of a row that are texts, whatever its task."""


def read_texts(path: Path) -> list[str]:
    """Read the texts of a file, where nothing else of it matters.

    Args:
        path: A `.txt` file with a text a line, blank lines skipped; or rows of any task, each of
            whose texts counts: `text` and `text_pair`, `prompt` and `completion`, the words of
            `tokens`, the contents of `messages` and so on.

    Raises:
        DataError: There is no such file, a row is broken or has no text, or there is no text.
    """
    return [text for _, text in placed_texts(path)]


def placed_texts(path: Path) -> list[tuple[str, str]]:
    """Read the texts of a file, each after its file and line; see `read_texts`."""
    if path.suffix != ".txt":
        return [(row.place, text) for row in read_rows(path, _FORM) for text in _texts(row)]
    texts = [(place, line) for place, line in numbered(path) if line.strip()]
    if not texts:
        raise DataError(f"{path} has no text", "Give a .jsonl or .txt file of example texts")
    return texts


def texts_of(asked: Sequence[Asked]) -> list[str]:
    """The texts to predict for, given as they are or as rows with a `text`.

    Raises:
        DataError: One is blank, or a row has none.
    """
    return [text_of(row, _FORM) for row in rows_asked(asked, ("text",), _FORM)]


def text_of(row: Row, form: str) -> str:
    """The only text of a row.

    Args:
        row: The row.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: It has none, or a second one in `text_pair`.
    """
    text = field_of(row, "text", form)
    refuse_pair(row)
    return text


def pair_of(row: Row, form: str) -> tuple[str, str]:
    """The two texts of a row; the arguments are those of `text_of`.

    Raises:
        DataError: It lacks one of them.
    """
    text = field_of(row, "text", form)
    if row.fields.get("text_pair") is None:
        raise DataError(
            f'{row.place} has no "text_pair", and the model reads pairs of texts',
            f"{form}; for single texts export without --pairs, from rows without pairs",
        )
    return text, field_of(row, "text_pair", form)


def field_of(row: Row, name: str, form: str) -> str:
    """A field of a row that is a text; the arguments are those of `text_of`.

    Raises:
        DataError: The row has no such field, or it is no text, or blank.
    """
    text = row.fields.get(name)
    if not isinstance(text, str):
        raise DataError(f'{row.place} has no "{name}"', form)
    if not text.strip():
        raise DataError(f'{row.place} has an empty "{name}"', "Remove the row, or give it a text")
    return text


def refuse_pair(row: Row) -> None:
    """Refuse a row with a second text, which would be dropped.

    Raises:
        DataError: It has one.
    """
    if row.fields.get("text_pair") is not None:
        raise DataError(
            f'{row.place} has a "text_pair", and the model reads single texts',
            "Export it for pairs of texts (--pairs), or leave the second text out",
        )


def _texts(row: Row) -> Iterator[str]:
    fields = row.fields
    found = [name for name in _FIELDS if fields.get(name) is not None]
    words, messages = list_in(row, "tokens"), list_in(row, "messages")
    if not (found or isinstance(words, list | str) or isinstance(messages, list)):
        raise DataError(f'{row.place} has no "text"', _FORM)
    for name in found:
        yield field_of(row, name, _FORM)
    if isinstance(words, str):
        yield words
    if isinstance(words, list):
        yield " ".join(map(str, words))
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) and content.strip():
            yield content
