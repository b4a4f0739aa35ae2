"""What a model is asked to predict for: texts, or rows with the fields that its task reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import first_line
from edgefuse_runtime.data.json_lines import json_object
from edgefuse_runtime.data.lines import read_lines, refuse_blank
from edgefuse_runtime.data.rows import Row, read_rows

Asked = str | Mapping[str, Any]
"""A text, or the fields of a row as data files have them."""

_FORM = 'A row has what the task reads, as in {"text": "turn on the light"}'
_ROWS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab"})


def read_asked(path: Path) -> Sequence[Asked]:
    """Read a file to predict for.

    Args:
        path: Rows (JSON lines, CSV or TSV with a header), which the file's name says or a first
            line that begins as a JSON object; else a text a line.

    Raises:
        DataError: There is no such file, it has nothing in it, or a row or line is broken.
    """
    suffix = path.suffix.lower()
    if suffix in _ROWS or (suffix != ".txt" and _begins_as_rows(path)):
        return [row.fields for row in read_rows(path, _FORM)]
    return read_lines(path)


def rows_asked(asked: Sequence[Asked], fields: Sequence[str], form: str) -> list[Row]:
    """Make rows of what a model is asked.

    Args:
        asked: Texts and rows.
        fields: Names of what the task reads. A text is the first of them where there is only one;
            where there are several, it is a row as a JSON object.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: A text is blank, or no row where one is needed; it is named `text:1`, say.
    """
    refuse_blank([one if isinstance(one, str) else "{}" for one in asked], "text")
    return [_row(one, f"text:{number}", fields, form) for number, one in enumerate(asked, start=1)]


def _begins_as_rows(path: Path) -> bool:
    return first_line(path).startswith("{")


def _row(one: Asked, place: str, fields: Sequence[str], form: str) -> Row:
    if not isinstance(one, str):
        return Row(place, dict(one))
    if len(fields) == 1:
        return Row(place, {fields[0]: one})
    if not one.lstrip().startswith("{"):
        needed = " and ".join(f'"{name}"' for name in fields)
        raise DataError(f"{place} is a text alone, and the model reads {needed}", form)
    return Row(place, json_object(one, place, form))
