"""What commands print on standard output: text, tables and JSON."""

import sys
from typing import Any

import msgspec

from edgefuse.report.table import Table


def print_json(obj: Any) -> None:
    """Print one JSON object (structs, dataclasses, builtins) and nothing else on stdout."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(obj), indent=2) + b"\n")
    sys.stdout.flush()


def print_text(*lines: str) -> None:
    """Print lines on stdout as they are; nothing in them is markup."""
    for line in lines:
        sys.stdout.write(f"{line}\n")


def print_piece(text: str) -> None:
    """Print a piece of text on stdout as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_table(table: Table) -> None:
    """Print a table on stdout; a column of numbers is right-aligned."""
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
    console.print(shown)
