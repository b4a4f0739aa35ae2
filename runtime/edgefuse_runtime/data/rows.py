"""Rows of a data file: JSON lines, or CSV or TSV with a header."""

from pathlib import Path
from typing import Any, NamedTuple

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import decoded, read_data
from edgefuse_runtime.data.json_lines import is_json, json_rows, refuse_other_json
from edgefuse_runtime.data.separated import separated_rows, separator_of


class Row(NamedTuple):
    """A row of a data file.

    Attributes:
        place: File and line, as messages name it.
        fields: Values by their names: those of a JSON object, or texts by the names of columns,
            without the cells that are empty.
    """

    place: str
    fields: dict[str, Any]


def read_rows(path: Path, form: str) -> list[Row]:
    """Read a file of rows.

    Args:
        path: A regular file in UTF-8: an object a line, or CSV or TSV with a header, which the
            file's name or its first line shows.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: There is no such file, it is of another format, it has no row, or a row is
            broken; the message names file and line.
    """
    text = decoded(read_data(path), str(path))
    first = text.lstrip().partition("\n")[0].strip()
    separator = None
    if first.startswith(("{", "[")):
        refuse_other_json(text, path)
    elif first and not is_json(first):
        separator = separator_of(first, path.suffix.lower())
    if separator is None:
        rows = [Row(place, fields) for place, fields in json_rows(text, str(path), form)]
    else:
        rows = [Row(place, cells) for place, cells in separated_rows(text, str(path), separator)]
    if not rows:
        raise DataError(f"{path} has no rows", form)
    return rows
