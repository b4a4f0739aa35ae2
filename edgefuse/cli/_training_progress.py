"""A run as a progress bar on standard error; without a terminal, a line at times."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgefuse.cli._progress import Lines
from edgefuse_runtime.tasks.registry import primary_of

if TYPE_CHECKING:
    from edgefuse_runtime.tasks.task import Figure
    from edgefuse_runtime.training.memory_plan import MemoryPlan
    from edgefuse_runtime.training.records import EvaluationRecord, StepRecord

_SMOOTHING = 0.1


class TrainingProgress:
    """An observer of a run: epoch, loss, speed, memory and the time that is left."""

    def __init__(self, progress: Progress, epochs: int, kinds: "Sequence[Figure]") -> None:
        self._progress = progress
        self._kinds = kinds
        self._task = progress.add_task("loading", total=None, figures="")
        self._epochs = epochs
        self._steps = 0
        self._loss: float | None = None
        self._reached = ""
        self._lines = Lines()

    def show_plan(self, plan: "MemoryPlan") -> None:
        """Say what was chosen, above the bar, where there is one."""
        if not self._progress.console.is_terminal:
            return
        kept = f", the insides of {plan.kept_layers} layers kept" if plan.kept_layers else ""
        self._progress.console.print(
            f"Memory: {plan.rows_at_once} rows at once{kept}; about {plan.bytes / 2**20:,.0f} MiB"
        )

    def on_start(self, step: int, steps: int) -> None:
        """Show how far the run has come."""
        self._steps = steps
        self._progress.update(self._task, description="training", completed=step, total=steps)

    def on_step(self, record: "StepRecord") -> None:
        """Move the bar; the loss is a running mean."""
        before = record.loss if self._loss is None else self._loss
        self._loss = before + _SMOOTHING * (record.loss - before)
        epoch = f"epoch {record.epoch}/{self._epochs}"
        figures = (
            f"loss {self._loss:.3f}  {record.samples_per_second:.1f} samples/s  "
            f"{record.rss_mib:.0f} MiB{self._reached}"
        )
        self._progress.update(self._task, completed=record.step, description=epoch, figures=figures)
        if self._progress.disable:
            self._lines.show(f"{epoch}, step {record.step}/{self._steps}  {figures}")

    def on_evaluation(self, record: "EvaluationRecord") -> None:
        """Show the primary figure from now on."""
        primary = primary_of(self._kinds, record.figures)
        self._reached = f"  {primary.title} {primary.text(record.figures[primary.name])}"

    def on_save(self, path: Path, step: int) -> None:
        """Nothing to show."""

    def on_notice(self, sentence: str) -> None:
        """Say it above the bar, and without a terminal too."""
        self._progress.console.print(
            f"edgefuse: {sentence}.", markup=False, highlight=False, soft_wrap=True
        )


@contextmanager
def training_progress(epochs: int, kinds: "Sequence[Figure]") -> Iterator[TrainingProgress]:
    """Show a bar while the block runs.

    Args:
        epochs: Count of epochs.
        kinds: The task's figures of merit, of which the primary one is shown after an evaluation.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield TrainingProgress(progress, epochs, kinds)
