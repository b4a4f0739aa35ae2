"""Steps, evaluations and checkpoints in an order that `Progress` alone decides.

That is what makes a run resumable: from the same progress and the same engine state, the same
things happen.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec

from edgefuse_devices.errors import Interrupted, RunError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.engines.engine import Engine, Tensors
from edgefuse_runtime.inference.evaluation import evaluate_model
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.machine import memory
from edgefuse_runtime.tasks.registry import primary_of
from edgefuse_runtime.training.care import Care
from edgefuse_runtime.training.checkpoint import Best, Progress, save_checkpoint
from edgefuse_runtime.training.course import Course, are_finite
from edgefuse_runtime.training.metrics_log import MetricsLog
from edgefuse_runtime.training.records import EvaluationRecord, NoticeRecord, StepRecord
from edgefuse_runtime.training.run import BEST, LAST, PREVIOUS

_MIB = 2**20
_MOST_ROWS = 16


class Observer(Protocol):
    """Who watches a run: the command line's progress bar, say."""

    def on_start(self, step: int, steps: int) -> None:
        """Training begins, with `step` of `steps` done before."""
        ...

    def on_step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """An epoch is evaluated."""
        ...

    def on_save(self, path: Path, step: int) -> None:
        """A checkpoint is on the disk."""
        ...

    def on_notice(self, sentence: str) -> None:
        """Something was lost, and what is done about it."""
        ...


@dataclass(frozen=True)
class Job:
    """What the loop works on.

    Attributes:
        bundle: The bundle that is trained.
        run: The run's directory.
        course: Rows and learning rate of every step.
        valid: Validation data, if any.
        save_every: Steps between checkpoints; every epoch ends with one besides.
        threads: Threads of every session.
        max_temperature: Temperature in °C that the machine shall not have; None for any.
    """

    bundle: Bundle
    run: Path
    course: Course
    valid: Dataset | None
    save_every: int
    threads: int
    max_temperature: float | None = None


class TrainingLoop:
    """A run in progress."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        progress: Progress,
        *,
        log: MetricsLog,
        observer: Observer | None,
        stop: Callable[[], bool],
    ) -> None:
        self._job = job
        self._engine = engine
        self._log = log
        self._observer = observer
        self._stop = stop
        self._care = Care(
            progress.strain,
            max_temperature=job.max_temperature,
            say=self._note,
            stop=stop,
        )
        self.progress = progress

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: `stop` gave True, or a battery is low; everything up to the last step is
                saved.
            RunError: Training diverged; the checkpoint before is kept.
            OutputError: A checkpoint could not be written.
        """
        job, each = self._job, self._job.course.steps_per_epoch
        while True:
            if self.progress.step == (self.progress.evaluations + 1) * each:
                self._end_epoch()
            if self.progress.step == job.course.steps:
                return
            ending = self._care.after_step(self._step())
            step, stopping = self.progress.step, bool(ending) or self._stop()
            if stopping or step % each == 0 or step % job.save_every == 0:
                self._save_last()
            if stopping:
                self._interrupt(ending)

    def _note(self, sentence: str) -> None:
        """Tell of what happened to the machine, and keep it beside the steps."""
        self._log.write(NoticeRecord(step=self.progress.step, notice=sentence))
        if self._observer:
            self._observer.on_notice(sentence)

    def _step(self) -> float:
        """Take a step; the seconds that it took."""
        course, progress = self._job.course, self.progress
        outcome = course.take(self._engine, progress.step)
        if outcome.divergence:
            rows = _listed(course.rows_of(progress.step))
            raise self._diverged(f"{outcome.divergence}, of rows {rows}")
        record = StepRecord(
            step=outcome.step,
            epoch=progress.step // course.steps_per_epoch + 1,
            loss=outcome.loss,
            learning_rate=outcome.learning_rate,
            gradient_norm=outcome.gradient_norm,
            samples_per_second=outcome.rows / outcome.seconds,
            tokens_per_second=outcome.tokens / outcome.seconds,
            rss_mib=memory.resident() / _MIB,
        )
        self.progress = msgspec.structs.replace(
            progress,
            step=record.step,
            rows=progress.rows + outcome.rows,
            tokens=progress.tokens + outcome.tokens,
            seconds=progress.seconds + outcome.seconds,
        )
        self._log.write(record)
        if self._observer:
            self._observer.on_step(record)
        return outcome.seconds

    def _end_epoch(self) -> None:
        """Evaluate, and keep the parameters where they are the best so far.

        `last` was saved just before: a crash in here costs an evaluation and no training.
        """
        progress, epoch = self.progress, self.progress.evaluations + 1
        best = Best(epoch=epoch, step=progress.step)
        if self._job.valid:
            best = self._evaluate(self._job.valid, best)
        if best.epoch == epoch:
            self._save(self._job.run / BEST, self._engine.parameters())
        self.progress = msgspec.structs.replace(progress, evaluations=epoch, best=best)

    def _evaluate(self, valid: Dataset, now: Best) -> Best:
        """Evaluate on validation data; the better of this epoch and the best before."""
        bundle = self._job.bundle
        model = InferenceModel(bundle, self._engine.parameters(), threads=self._job.threads)
        evaluation = evaluate_model(
            bundle, model, valid, on_progress=lambda *_: self._interrupt_if_asked()
        )
        now = msgspec.structs.replace(now, figures=evaluation.figures)
        before = self.progress.best
        primary = primary_of(bundle.manifest.task.figures, now.figures)
        is_best = before is None or primary.improves(
            now.figures[primary.name], before.figures.get(primary.name)
        )
        record = EvaluationRecord(
            step=now.step, epoch=now.epoch, figures=now.figures, is_best=is_best
        )
        self._log.write(record)
        if self._observer:
            self._observer.on_evaluation(record)
        return now if before is None or is_best else before

    def _save_last(self) -> None:
        self.progress = msgspec.structs.replace(
            self.progress,
            metrics_bytes=self._log.sync(),
            peak_resident=max(self.progress.peak_resident, memory.peak_resident()),
            strain=self._care.strain,
        )
        run = self._job.run
        self._save(run / LAST, self._engine.state(), before=run / PREVIOUS)

    def _save(self, path: Path, tensors: Tensors, *, before: Path | None = None) -> None:
        if not are_finite(tensors):
            raise self._diverged(f"the parameters after step {self.progress.step} are not finite")
        save_checkpoint(path, tensors, self.progress, bundle_id=self._job.bundle.id, before=before)
        if self._observer:
            self._observer.on_save(path, self.progress.step)

    def _diverged(self, how: str) -> RunError:
        lower = f"--learning-rate {self._job.course.peak / 10:g}"
        if (self._job.run / LAST).exists():
            return RunError(
                f"training diverged: {how}; {LAST} is the checkpoint before",
                f"Go on from there at a lower rate: {self._command('--resume')} {lower}",
            )
        return RunError(
            f"training diverged: {how}",
            f"Begin again at a lower rate: --overwrite {lower}",
        )

    def _interrupt_if_asked(self) -> None:
        if self._stop():
            self._interrupt()

    def _interrupt(self, why: str = "") -> NoReturn:
        raise Interrupted(
            f"{why}{': ' if why else ''}stopped after step {self.progress.step} of "
            f"{self._job.course.steps}, which {self._job.run / LAST} holds",
            f"Go on with: {self._command('--resume')}",
        )

    def _command(self, *options: str) -> str:
        paths = str(self._job.bundle.path), str(self._job.run)
        return shlex.join(["edgefuse", "finetune", *paths, *options])


def _listed(rows: Sequence[int]) -> str:
    """Numbers of rows for a sentence, which has no room for very many."""
    shown = ", ".join(map(str, rows[:_MOST_ROWS]))
    more = len(rows) - _MOST_ROWS
    return f"{shown} and {more} more" if more > 0 else shown
