"""Lines of text, none of them blank."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.data_file import decoded, numbered, read_data


def read_lines(path: Path) -> list[str]:
    """Read a file of texts, one a line; blank lines at the end do not count.

    Raises:
        DataError: There is no such file, it is not UTF-8, it has no text, or a line is blank.
    """
    return split_lines(read_data(path), str(path))


def split_lines(raw: bytes, name: str) -> list[str]:
    """Split UTF-8 text into lines as `read_lines` does; `name` stands for the file in errors."""
    texts = [line for _, line in numbered(decoded(raw, name), name)]
    if not texts:
        raise DataError(f"{name} has no text", "Give one text a line")
    refuse_blank(texts, name)
    return texts


def lines_of(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Give the lines of UTF-8 text as they come, without what ends them.

    Args:
        stream: Lines.
        name: What stands for the stream in errors.

    Raises:
        DataError: A line is not UTF-8; the message names it `NAME:2`, say.
    """
    for number, line in enumerate(stream, start=1):
        yield decoded(line, name, first_line=number).rstrip("\r\n")


def refuse_blank(texts: Sequence[str], name: str) -> None:
    """Refuse texts that are blank.

    Raises:
        DataError: One is; the message names it `NAME:2`, say.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError(f"{name}:{number} is blank", "Give one text a line")
