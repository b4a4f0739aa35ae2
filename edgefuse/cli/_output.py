"""What commands print on standard output: text, tables and JSON.

A standard output that is closed or full is an `OutputError`: what the command did is done.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from edgefuse.report.table import Table
from edgefuse_devices.errors import OutputError

_STANDARD = (0, 1, 2)


def prepare_streams() -> None:
    """Let every character be printed, whatever the locale, and closed streams stay closed.

    A descriptor that is closed would be the next file's that is opened, and get what is printed.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # which takes the lowest, and cannot be written
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def write_error(text: str) -> None:
    """Write to stderr, if it can be written."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def print_json(obj: Any) -> None:
    """Print one JSON object (structs, dataclasses, builtins) and nothing else on stdout.

    Raises:
        OutputError: stdout is closed or full.
    """
    content = msgspec.json.format(msgspec.json.encode(obj), indent=2) + b"\n"
    with _printing():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)


def print_text(*lines: str) -> None:
    """Print lines on stdout as they are; nothing in them is markup.

    Raises:
        OutputError: stdout is closed or full.
    """
    with _printing():
        for line in lines:
            sys.stdout.write(f"{line}\n")


def print_piece(text: str) -> None:
    """Print a piece of text on stdout as it is, at once.

    Raises:
        OutputError: stdout is closed or full.
    """
    with _printing():
        sys.stdout.write(text)


def print_table(table: Table) -> None:
    """Print a table on stdout; a column of numbers is right-aligned.

    Raises:
        OutputError: stdout is closed or full.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(table.columns):
        shown.add_column(Text(name), justify="right" if table.is_numeric(index) else "left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    with _printing():
        console.print(shown)


@contextmanager
def _printing() -> Iterator[None]:
    """Bring to stdout what the block prints."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer would be written once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            f"standard output cannot be written: {error.strerror}",
            "What the command did is done; run it again to see what it prints",
        ) from error
