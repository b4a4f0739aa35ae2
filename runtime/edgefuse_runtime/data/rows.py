"""Rows of a data file: JSON lines, an object a line."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import AS_JSON_LINES, numbered_lines, read_data

_SUFFIXES = {".csv": "CSV", ".tsv": "TSV"}


class Row(NamedTuple):
    """A row of a data file.

    Attributes:
        place: File and line, as messages name it.
        fields: The JSON object.
    """

    place: str
    fields: dict[str, Any]


def read_rows(path: Path, form: str) -> list[Row]:
    """Read a file of JSON lines.

    Args:
        path: A regular file in UTF-8.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: There is no such file, it is of another format, it has no row, or a row is
            broken; the message names file and line.
    """
    raw = read_data(path)
    _check_format(raw, path)
    rows = [
        Row(place, _fields(line, place, form)) for place, line in numbered_lines(raw, str(path))
    ]
    if not rows:
        raise DataError(f"{path} has no rows", form)
    return rows


def _fields(line: str, place: str, form: str) -> dict[str, Any]:
    if not line.strip():
        raise DataError(f"{place} is an empty row", form)
    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise DataError(f"{place} is broken JSON: {error}", form) from error
    if not isinstance(fields, dict):
        raise DataError(f"{place} is not a JSON object", form)
    return fields


def _check_format(raw: bytes, path: Path) -> None:
    """Refuse a file of another format, which its first line shows.

    Raises:
        DataError: It is CSV, TSV, a JSON array, or JSON that goes over several lines.
    """
    text = raw.removeprefix(b"\xef\xbb\xbf").strip()
    first = text.split(b"\n", 1)[0].strip()
    found = None
    if first.startswith(b"["):
        found = "a JSON array" if _is_json(text) else None
    elif first.startswith(b"{"):
        several = not _is_json(first) and (first == b"{" or _is_json(text))
        found = "JSON over several lines" if several else None
    elif first and not _is_json(first):
        separated = "TSV" if b"\t" in first else "CSV" if b"," in first else None
        found = _SUFFIXES.get(path.suffix.lower(), separated)
    if found is not None:
        raise DataError(f"{path} is {found}, not JSON lines", AS_JSON_LINES)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
