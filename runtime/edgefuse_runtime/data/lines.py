"""Lines of text, none of them blank."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import decoded, lines_of, opened


def read_lines(path: Path) -> list[str]:
    """Read a file of texts, one a line; blank lines at the end do not count.

    Raises:
        DataError: There is no such file, it is not UTF-8, it has no text, or a line is blank.
    """
    with opened(path) as file:
        return split_lines(file, str(path))


def split_lines(file: IO[bytes], name: str) -> list[str]:
    """Split UTF-8 text into lines as `read_lines` does; `name` stands for the file in errors."""
    texts = [line.bare for line in lines_of(file, name)]
    if not texts:
        raise DataError(f"{name} has no text", "Give one text a line")
    refuse_blank(texts, name)
    return texts


def typed_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Give the lines of UTF-8 text as they come, blank ones too, without what ends them.

    Args:
        stream: Lines.
        name: What stands for the stream in errors.

    Raises:
        DataError: A line is not UTF-8; the message names it `NAME:2`, say.
    """
    for number, line in enumerate(stream, start=1):
        yield decoded(line, name, number=number).rstrip("\r\n")


def refuse_blank(texts: Sequence[str], name: str) -> None:
    """Refuse texts that are blank.

    Raises:
        DataError: One is; the message names it `NAME:2`, say.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"{name}:{number} is blank", "Give one text a line")
