"""JSON lines: an object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import AS_JSON_LINES, numbered

Pairs = list[tuple[str, Any]]


def json_rows(text: str, name: str, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the object of every line after its place, `NAME:1` and so on.

    Args:
        text: What a file holds.
        name: Name of the file, for messages.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: A line is empty, no object, or an object that has a key twice.
    """
    for place, line in numbered(text, name):
        yield place, json_object(line, place, form)


def json_object(line: str, place: str, form: str) -> dict[str, Any]:
    """Decode an object; the arguments are those of `json_rows`.

    Raises:
        DataError: It is empty, broken, no object, or has a key twice.
    """
    if not line.strip():
        raise DataError(f"{place} is an empty row", form)
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{place} is broken JSON: {error}", form) from error
    if not isinstance(fields, dict):
        raise DataError(f"{place} is not a JSON object", form)
    # Each key is followed by a colon: as many colons as keys, and none can be there twice.
    if line.count(":") > len(fields):
        _refuse_duplicates(line, place)
    return fields


def refuse_other_json(text: str, path: Path) -> None:
    """Refuse JSON that is not an object a line.

    Args:
        text: What a file holds; its first line that is not blank begins with a bracket.
        path: The file, for messages.

    Raises:
        DataError: It is an array, or an object that goes over several lines.
    """
    first = text.lstrip().partition("\n")[0].strip()
    found = None
    if first.startswith("["):
        found = "a JSON array" if is_json(text.strip()) else None
    elif not is_json(first) and (first == "{" or is_json(text.strip())):
        found = "JSON over several lines"
    if found is not None:
        raise DataError(f"{path} is {found}, not JSON lines", AS_JSON_LINES)


def is_json(text: str) -> bool:
    """Whether a text is JSON."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _refuse_duplicates(line: str, place: str) -> None:
    def check(pairs: Pairs) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"{place} has the key {twice!r} twice", "Leave in the one that is meant"
            )
        return fields

    json.loads(line, object_pairs_hook=check)
