"""CSV and TSV with a header: cells by the names of their columns."""

import csv
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import LONGEST_LINE, lines_of, opened

_KINDS = {",": "CSV", ";": "CSV", "\t": "TSV"}
_COLUMN = re.compile(r'"?[^\W\d][\w .-]{0,40}"?')


def separator_of(header: str, suffix: str) -> str | None:
    """What separates the cells of a file: a comma, a semicolon or a tab.

    Args:
        header: The file's first line.
        suffix: Ending of the file's name, in lower case. `.csv` and `.tsv` say that it has a
            header; of any other file, its first line has to look like one.

    Returns:
        The separator; None where the file has none.
    """
    if suffix in (".tsv", ".tab"):
        return "\t"
    if suffix == ".csv":
        return max((",", ";", "\t"), key=header.count)
    separator = "\t" if "\t" in header else ","
    names = [name.strip() for name in header.split(separator)]
    if len(names) > 1 and all(_COLUMN.fullmatch(name) for name in names if name):
        return separator
    return None


def separated_rows(path: Path, separator: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the cells of every row after its place, `FILE:2` for the one after the header.

    A cell in double quotes may have separators and newlines in it, and quotes that are doubled, as
    RFC 4180 has it. Empty cells are left out, and so is a column without a name, as pandas writes
    for its index.

    Args:
        path: The file.
        separator: What is between two cells.

    Raises:
        DataError: The header has a name twice, or none; a row has more or fewer cells than the
            header, is empty, or has quotes that do not match.
    """
    rows = _cells(path, separator)
    header = [column.strip() for column in next(rows, ("", []))[1]]
    _check_header(header, path)
    for place, cells in rows:
        if not cells:
            raise DataError(f"{place} is an empty row", "Leave it out")
        if len(cells) != len(header):
            raise DataError(
                f"{place} has {len(cells)} cells, and the header names {len(header)} columns",
                "Put a cell that has a separator or a newline in it into double quotes, as "
                "pandas does with to_csv",
            )
        yield (
            place,
            {column: cell for column, cell in zip(header, cells, strict=True) if column and cell},
        )


def _cells(path: Path, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Cells of rows after their places; one that goes over several lines is named by its first."""
    # 131,072 signs are no mistake.
    csv.field_size_limit(max(LONGEST_LINE, csv.field_size_limit()))
    with opened(path) as file:
        whole = lines_of(file, str(path), blank=" \r\n")
        lines = (one for line in whole for one in StringIO(line.text, ""))
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                yield place, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "field limit" in str(error):
                    raise DataError(
                        f"{place} has a cell of more than {LONGEST_LINE >> 20} MiB, or a quote "
                        "that does not end",
                        "Write a text of that length as several rows",
                    ) from error
                raise DataError(
                    f"{place} is broken {_KINDS[separator]}: {error}",
                    'Double the quotes inside of a quoted cell, as in "a ""b"" c", or write JSON '
                    "lines",
                ) from error


def _check_header(header: list[str], name: Path) -> None:
    names = [column for column in header if column]
    if not names:
        raise DataError(f"{name} has no header", "Name the columns in its first line")
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise DataError(
            f"{name}:1 names the column {twice!r} twice", "Leave in the one that is meant"
        )
