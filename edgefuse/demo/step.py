"""What a walk-through is made of: commands, and how much they compute."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Size of the walk-through.

    Attributes:
        train: Count of rows to train on.
        test: Count of rows to evaluate on.
        epochs: Count of passes over the training rows.
        bench_steps: Count of steps that bench times.
    """

    train: int
    test: int
    epochs: int
    bench_steps: int = 0


@dataclass(frozen=True)
class Step:
    """A command of the walk-through.

    Attributes:
        title: What it does.
        arguments: Words after `edgefuse` in the command.
        board: Whether it runs without the workstation's libraries, as on a board.
        to_file: The file that its standard output goes to, instead of the terminal.
    """

    title: str
    arguments: tuple[str, ...]
    board: bool = True
    to_file: str | None = None

    @property
    def command(self) -> str:
        """The command as one would type it in the demo's folder."""
        typed = shlex.join(("edgefuse", *self.arguments))
        return f"{typed} > {self.to_file}" if self.to_file else typed
