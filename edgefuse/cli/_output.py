"""Where commands write: tables and JSON on stdout, progress on stderr."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec


def print_json(obj: Any) -> None:
    """Print one JSON object (structs, dataclasses, builtins) and nothing else on stdout."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(obj), indent=2) + b"\n")
    sys.stdout.flush()


def print_text(*lines: str) -> None:
    """Print lines on stdout as they are; nothing in them is markup."""
    for line in lines:
        sys.stdout.write(f"{line}\n")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """Print a table on stdout; a column whose cells are all numbers is right-aligned.

    Args:
        columns: Headings.
        rows: A cell per column; `str` is applied to each.
        title: A line above the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(row[index][:1] in "0123456789-+±" for row in cells)
        table.add_column(Text(name), justify="right" if numeric else "left")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar a stage on stderr while the block runs; silent when stderr is no terminal.

    Yields:
        A function to call with a stage's name, the steps that are done and their count.
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
def progress_bar(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Show one bar on stderr while the block runs; silent when stderr is no terminal.

    Args:
        description: What is being done.
        total: Count of steps.

    Yields:
        A function to call after each step.
    """
    with progress_bars() as show:
        steps = count(1)
        show(description, 0, total)
        yield lambda: show(description, next(steps), total)


@contextmanager
def stage_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Show on stderr which of a few stages is under way; silent when stderr is no terminal.

    Args:
        total: Count of stages.

    Yields:
        A function to call with a stage's name when it begins.
    """
    from rich.console import Console

    console = Console(stderr=True)
    begun = 0
    with console.status("") as status:

        def begin(name: str) -> None:
            nonlocal begun
            begun += 1
            status.update(f"[{begun}/{total}] {name} …")

        yield begin
