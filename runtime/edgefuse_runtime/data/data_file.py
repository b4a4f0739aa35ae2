"""Opens a data file, gives its lines as they come, and refuses what is not plain text."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from edgefuse_devices.errors import DataError

AS_JSON_LINES = (
    "Write its rows as JSON lines, an object a line, as pandas does with "
    'to_json("rows.jsonl", orient="records", lines=True)'
)

LONGEST_LINE = 1 << 20
"""Bytes of the longest line: a tokenizer takes a hundred times as much memory as its text has."""

_MOST_BLANK = 1000

MARK = b"\xef\xbb\xbf"
"""A byte-order mark."""

_FORMATS = {
    b"\x1f\x8b": ("compressed by gzip", "Decompress it: gunzip FILE"),
    b"BZh": ("compressed by bzip2", "Decompress it: bunzip2 FILE"),
    b"\xfd7zXZ\0": ("compressed by xz", "Decompress it: unxz FILE"),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "Decompress it: unzstd FILE"),
    b"PK\x03\x04": ("a zip archive or an Excel sheet", AS_JSON_LINES),
    b"\xd0\xcf\x11\xe0": ("an Excel sheet", AS_JSON_LINES),
    b"PAR1": ("a Parquet file", AS_JSON_LINES),
    b"ARROW1": ("an Arrow file", AS_JSON_LINES),
    b"\xff\xfe": ("UTF-16 text", "Save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "Save it as UTF-8"),
    b"version https://git-lfs": ("a git-lfs pointer, not the file", "Fetch it: git lfs pull"),
}
"""The bytes that a file of each format begins with, its name, and what to do."""


class Line(NamedTuple):
    """A line of text.

    Attributes:
        number: Number of the line, from 1.
        text: The line, with the newline that ends it.
    """

    number: int
    text: str

    @property
    def bare(self) -> str:
        """The line without the newline that ends it."""
        return self.text.removesuffix("\n").removesuffix("\r")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a data file for reading.

    It must be a regular file: data are read again when a run resumes, and their digest is recorded.

    Raises:
        DataError: There is no such file, it cannot be read, it is a pipe or a device, or it is no
            plain text.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(
                f"{path} is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}, which can be read "
                "only once",
                "Write the rows to a file, and name that",
            )
        with path.open("rb") as file:
            beginning = file.read(max(map(len, _FORMATS)))
            file.seek(0)
            for one, (kind, hint) in _FORMATS.items():
                if beginning.startswith(one):
                    raise DataError(f"{path} is {kind}", hint.replace("FILE", str(path)))
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "Check the path of the data file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Name a data file") from error


def numbered(path: Path) -> Iterator[tuple[str, str]]:
    """Give the lines of a data file without what ends them, each after its place: `FILE:1`, say.

    Raises:
        DataError: The file cannot be read, or a line cannot; see `opened` and `lines_of`.
    """
    with opened(path) as file:
        for line in lines_of(file, str(path)):
            yield f"{path}:{line.number}", line.bare


def first_line(path: Path) -> str:
    """The first line of a data file that is not blank, without white space around it; or nothing.

    Raises:
        DataError: The file cannot be read, or a line cannot; see `opened` and `lines_of`.
    """
    return next((line.strip() for _, line in numbered(path) if line.strip()), "")


def lines_of(file: IO[bytes], name: str, *, blank: str | None = None) -> Iterator[Line]:
    """Give the lines of UTF-8 text as they come, without a byte-order mark.

    Blank lines at the end are dropped.

    Args:
        file: Where the text begins.
        name: What it is called in errors.
        blank: Characters of blank lines; None for all white space.

    Raises:
        DataError: A line is not UTF-8 or longer than `LONGEST_LINE`, or there are very many blank
            ones before it; the message names it `NAME:1`, say.
    """
    passed: list[Line] = []
    left = number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) > LONGEST_LINE:
            raise DataError(
                f"{name}:{number} has more than {LONGEST_LINE >> 20} MiB",
                "Write a text of that length as several rows",
            )
        line = Line(number, decoded(raw, name, number=number))
        if not line.text.strip(blank):
            if len(passed) < _MOST_BLANK:
                passed.append(line)
            else:
                left += 1
            continue
        yield from passed
        if left:
            raise DataError(f"{name}:{number} has too many blank lines before it", "Remove them")
        passed.clear()
        yield line


def decoded(raw: bytes, name: str, *, number: int) -> str:
    """Decode a line of UTF-8 text, the first one without a byte-order mark.

    Args:
        raw: The line.
        name: What its text is called in errors.
        number: Number of the line, from 1.

    Raises:
        DataError: It is not UTF-8; the message names it `NAME:1`, say.
    """
    text = raw.removeprefix(MARK) if number == 1 else raw
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}:{number} is not UTF-8: {error.reason}", "Save it as UTF-8"
        ) from error
