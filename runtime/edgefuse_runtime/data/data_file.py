"""Reads the bytes of a data file, and refuses those that are not plain text."""

import stat
import string
from collections.abc import Iterator
from pathlib import Path

from edgefuse_devices.errors import DataError

AS_JSON_LINES = (
    "Write its rows as JSON lines, an object a line, as pandas does with "
    'to_json("rows.jsonl", orient="records", lines=True)'
)

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


def read_data(path: Path) -> bytes:
    """Read a data file whole.

    It must be a regular file: data are read again when a run resumes, and their digest is recorded.

    Raises:
        DataError: There is no such file, it is a pipe or a device, or it is no plain text.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(
                f"{path} is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}, which can be read "
                "only once",
                "Write the rows to a file, and name that",
            )
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "Check the path of the data file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Name a data file") from error
    for beginning, (kind, hint) in _FORMATS.items():
        if raw.startswith(beginning):
            raise DataError(f"{path} is {kind}", hint.replace("FILE", str(path)))
    return raw


def decoded(raw: bytes, name: str, *, first_line: int = 1) -> str:
    """Decode UTF-8 text, without a byte-order mark.

    Args:
        raw: The text.
        name: What it is called in errors.
        first_line: Number of its first line.

    Raises:
        DataError: A line is not UTF-8; the message names it `NAME:1`, say.
    """
    text = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + first_line
        raise DataError(
            f"{name}:{line} is not UTF-8: {error.reason}", "Save it as UTF-8"
        ) from error


def numbered(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Give the lines of a text, each after its place: `NAME:1`, `NAME:2` and so on.

    Carriage returns before newlines and blank lines at the end are dropped.
    """
    lines = text.rstrip(string.whitespace).replace("\r\n", "\n")
    for number, line in enumerate(lines.split("\n") if lines else [], start=1):
        yield f"{name}:{number}", line
