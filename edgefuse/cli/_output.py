"""Where commands write: tables and JSON on stdout, progress on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from edgefuse.report.table import Table
from edgefuse_runtime.progress import OnProgress


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


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Show a bar for each stage on stderr while the block runs; silent if stderr is no terminal.

    Yields:
        The observer to give to what is done.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def progress_line() -> Iterator[OnProgress]:
    """Show the stage under way as one line on stderr; silent if stderr is no terminal.

    Yields:
        The observer to give to what is done.
    """
    from rich.console import Console

    with Console(stderr=True).status("loading …") as status:
        yield lambda stage, done, total: status.update(f"[{done}/{total}] {stage} …")
