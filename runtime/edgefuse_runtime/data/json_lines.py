"""JSON lines: an object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import AS_JSON_LINES, MARK, numbered

Pairs = list[tuple[str, Any]]

_LARGE = 1 << 23


def json_rows(path: Path, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the object of every line of a file after its place, `FILE:1` and so on.

    Args:
        path: The file.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: A line is empty, no object, or an object that has a key twice.
    """
    for place, line in numbered(path):
        yield place, json_object(line, place, form)


def json_object(line: str, place: str, form: str) -> dict[str, Any]:
    """Decode an object.

    Args:
        line: JSON text.
        place: File and line, as messages name it.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: It is empty, broken, no object, or has a key twice.
    """
    if not line.strip():
        raise DataError(f"{place} is an empty row", form)
    try:
        fields = msgspec.json.decode(line)
        # Each key is followed by a colon: as many colons as keys, and none can be there twice.
        if isinstance(fields, dict) and line.count(":") > len(fields):
            _refuse_duplicates(line, place)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{place} is broken JSON: {error}", form) from error
    if not isinstance(fields, dict):
        raise DataError(f"{place} is not a JSON object", form)
    return fields


def refuse_other_json(first: str, path: Path) -> None:
    """Refuse JSON that is not an object a line.

    Args:
        first: The file's first line that is not blank, which begins with a bracket.
        path: The file.

    Raises:
        DataError: It is an array, or an object that goes over several lines.
    """
    found = None
    if first.startswith("["):
        found = "a JSON array" if _is_json_whole(path, if_large=True) else None
    elif not is_json(first) and (first == "{" or _is_json_whole(path, if_large=False)):
        found = "JSON over several lines"
    if found is not None:
        raise DataError(f"{path} is {found}, not JSON lines", AS_JSON_LINES)


def _is_json_whole(path: Path, *, if_large: bool) -> bool:
    """Whether a file is one piece of JSON; of a large one, which takes memory to say, a guess."""
    if path.stat().st_size > _LARGE:
        return if_large
    return is_json(path.read_bytes().removeprefix(MARK).strip())


def is_json(text: str | bytes) -> bool:
    """Whether a text is JSON."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
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
