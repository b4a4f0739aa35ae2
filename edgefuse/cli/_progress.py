"""How far a command has come, on standard error: moving on a terminal, else a line at times."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgefuse_runtime.progress import OnProgress

SECONDS = 30.0
"""Least time between two lines, so that what is over sooner says nothing."""


class Lines:
    """Lines for a log file, at most one in `SECONDS`."""

    def __init__(self) -> None:
        """Begin with the time of now."""
        self._last = time.monotonic()

    def show(self, text: str) -> None:
        """Write the text, unless there was one a moment ago."""
        now = time.monotonic()
        if now - self._last >= SECONDS:
            self._last = now
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def show_stage(self, stage: str, done: int, total: int) -> None:
        """Write how far a stage is."""
        self.show(f"{stage}: {done} of {total}")


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Show a bar for each stage while the block runs; without a terminal, a line at times.

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
    if not console.is_terminal:
        yield Lines().show_stage
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def progress_line() -> Iterator[OnProgress]:
    """Show the stage under way as one line; without a terminal, a line at times.

    Yields:
        The observer to give to what is done.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines().show_stage
        return
    with console.status("loading …") as status:
        yield lambda stage, done, total: status.update(f"[{done}/{total}] {stage} …")
