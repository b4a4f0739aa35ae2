"""What a demo teaches a model: data, the model, and the commands.

`subjects.py` lists all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgefuse.demo.step import Size, Step

Splits = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of a task by the name of their split, `train`, `valid` and `test`: a file each."""


class Subject(Protocol):
    """What a demo teaches a model."""

    @property
    def task(self) -> str:
        """What `--task` calls it."""
        ...

    @property
    def title(self) -> str:
        """What the rows are, as the end of a title."""
        ...

    @property
    def rows(self) -> Callable[[int, int], Splits]:
        """Makes the rows, of so many to train on and so many to evaluate on."""
        ...

    @property
    def full(self) -> Size:
        """Size of the walk-through."""
        ...

    @property
    def quick(self) -> Size:
        """Size of the quick one."""
        ...

    @property
    def needed_bytes(self) -> int:
        """Bytes of disk that the walk-through takes."""
        ...

    def model(self) -> Mapping[str, Path]:
        """Files of the model, by their paths in the demo's folder.

        Raises:
            ModelError: What the demo needs is not installed.
        """
        ...

    def plan(self, size: Size) -> tuple[Step, ...]:
        """List the commands, in order."""
        ...
