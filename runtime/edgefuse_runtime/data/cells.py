"""Cells of tables that hold more than a text: lists and objects, written as JSON."""

from typing import Any

import msgspec

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import AS_JSON_LINES
from edgefuse_runtime.data.rows import Row


def list_in(row: Row, name: str) -> Any:
    """A field of a row; a text in brackets, as a cell of a table has it, is a list in JSON.

    Args:
        row: The row.
        name: The field's name.

    Returns:
        The list that such a text says; any other value as it is, None where there is none.

    Raises:
        DataError: A text in brackets is no JSON.
    """
    value = row.fields.get(name)
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        return decoded_cell(value, name, row.place)
    return value


def decoded_cell(cell: str, name: str, place: str) -> Any:
    """What a cell of JSON says.

    Args:
        cell: The cell.
        name: Name of its column.
        place: File and line, as messages name it.

    Raises:
        DataError: It is no JSON, as the lists that pandas writes to CSV are none.
    """
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(
            f'{place} has "{name}" of broken JSON: {error}',
            "Write lists in cells with json.dumps, which puts texts into double quotes; or write "
            f"no table: {AS_JSON_LINES[0].lower()}{AS_JSON_LINES[1:]}",
        ) from error
