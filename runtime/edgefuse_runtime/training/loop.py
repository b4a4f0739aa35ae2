"""Steps, evaluations and checkpoints in an order that `Progress` alone decides.

That is what makes a run resumable: from the same progress and the same engine state, the same
things happen.
"""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NoReturn, Protocol

import msgspec
import numpy as np

from edgefuse_devices.errors import Interrupted, RunError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Rows, batches_per_epoch, collate, training_batches
from edgefuse_runtime.data.tokenization import TokenizedExamples
from edgefuse_runtime.engines.engine import Engine, Tensors
from edgefuse_runtime.inference.evaluation import evaluate
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.machine import memory
from edgefuse_runtime.training.checkpoint import Best, Progress, save_checkpoint
from edgefuse_runtime.training.metrics_log import MetricsLog
from edgefuse_runtime.training.records import EvaluationRecord, StepRecord
from edgefuse_runtime.training.run import BEST, LAST, TrainingSettings
from edgefuse_runtime.training.schedule import learning_rate

_MIB = 2**20


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


@dataclass(frozen=True)
class Plan:
    """What the loop works on.

    Attributes:
        bundle: That is trained.
        run: The run's directory.
        train: Training data.
        valid: Validation data, if any.
        settings: How to train.
        learning_rate: Its peak.
        batch_size: Rows in a batch.
        threads: Of every session.
    """

    bundle: Bundle
    run: Path
    train: TokenizedExamples
    valid: TokenizedExamples | None
    settings: TrainingSettings
    learning_rate: float
    batch_size: int
    threads: int

    @property
    def steps_per_epoch(self) -> int:
        """Count of batches in an epoch."""
        return batches_per_epoch(len(self.train.rows), self.batch_size)

    @property
    def steps(self) -> int:
        """Count of steps in the run."""
        return self.steps_per_epoch * self.settings.epochs


class TrainingLoop:
    """A run in progress."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        progress: Progress,
        *,
        log: MetricsLog,
        observer: Observer | None,
        stop: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._log = log
        self._observer = observer
        self._stop = stop
        self._order: tuple[int, list[Rows]] = (-1, [])
        self.progress = progress

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: `stop` said so; everything up to the last step is saved.
            RunError: Training diverged; the checkpoint before is kept.
            OutputError: A checkpoint could not be written.
        """
        plan, each = self._plan, self._plan.steps_per_epoch
        while True:
            if self.progress.step == (self.progress.evaluations + 1) * each:
                self._end_epoch()
            if self.progress.step == plan.steps:
                return
            self._step()
            step, stopping = self.progress.step, self._stop()
            if stopping or step % each == 0 or step % plan.settings.save_every == 0:
                self._save_last()
            if stopping:
                self._interrupt()

    def _step(self) -> None:
        plan, progress = self._plan, self.progress
        epoch, position = divmod(progress.step, plan.steps_per_epoch)
        rows = self._batches(epoch)[position]
        manifest = plan.bundle.manifest
        batch = collate(
            [plan.train.rows[row] for row in rows],
            plan.train.labels[rows].tolist(),
            inputs=manifest.inputs,
            padding_id=manifest.padding_id,
        )
        rate = learning_rate(
            progress.step,
            peak=plan.learning_rate,
            total_steps=plan.steps,
            warmup_ratio=plan.settings.warmup_ratio,
        )
        begin = perf_counter()
        result = self._engine.step(batch, rate)
        seconds = perf_counter() - begin
        for name, value in (("loss", result.loss), ("gradient norm", result.gradient_norm)):
            if not math.isfinite(value):
                raise self._diverged(f"the {name} of step {progress.step + 1} is {value}")
        record = StepRecord(
            step=progress.step + 1,
            epoch=epoch + 1,
            loss=result.loss,
            learning_rate=rate,
            gradient_norm=result.gradient_norm,
            samples_per_second=len(rows) / seconds,
            tokens_per_second=batch.tokens / seconds,
            rss_mib=memory.resident() / _MIB,
        )
        self.progress = msgspec.structs.replace(
            progress,
            step=record.step,
            rows=progress.rows + len(rows),
            tokens=progress.tokens + batch.tokens,
            seconds=progress.seconds + seconds,
        )
        self._log.write(record)
        if self._observer:
            self._observer.on_step(record)

    def _batches(self, epoch: int) -> list[Rows]:
        if self._order[0] != epoch:
            plan = self._plan
            batches = training_batches(
                plan.train.lengths, plan.batch_size, seed=plan.settings.seed, epoch=epoch
            )
            self._order = (epoch, batches)
        return self._order[1]

    def _end_epoch(self) -> None:
        """Evaluate, and keep the parameters where they are the best so far.

        `last` was saved just before: a crash in here costs an evaluation and no training.
        """
        progress, epoch = self.progress, self.progress.evaluations + 1
        best = Best(epoch=epoch, step=progress.step)
        if self._plan.valid:
            best = self._evaluate(self._plan.valid, best)
        if best.epoch == epoch:
            self._save(BEST, self._engine.parameters())
        self.progress = msgspec.structs.replace(progress, evaluations=epoch, best=best)

    def _evaluate(self, valid: TokenizedExamples, now: Best) -> Best:
        model = InferenceModel(
            self._plan.bundle, self._engine.parameters(), threads=self._plan.threads
        )
        evaluation = evaluate(model, valid, on_batch=lambda _: self._interrupt_if_asked())
        now = msgspec.structs.replace(
            now, accuracy=evaluation.accuracy, macro_f1=evaluation.macro_f1
        )
        before = self.progress.best
        best = now if before is None or evaluation.accuracy > (before.accuracy or 0) else before
        record = EvaluationRecord(
            step=now.step,
            epoch=now.epoch,
            accuracy=evaluation.accuracy,
            macro_f1=evaluation.macro_f1,
            loss=evaluation.loss,
            is_best=best is now,
        )
        self._log.write(record)
        if self._observer:
            self._observer.on_evaluation(record)
        return best

    def _save_last(self) -> None:
        self.progress = msgspec.structs.replace(
            self.progress,
            metrics_bytes=self._log.sync(),
            peak_resident=max(self.progress.peak_resident, memory.peak_resident()),
        )
        self._save(LAST, self._engine.state())

    def _save(self, name: str, tensors: Tensors) -> None:
        if not all(np.isfinite(np.sum(tensor)) for tensor in tensors.values()):
            raise self._diverged(f"the parameters after step {self.progress.step} are not finite")
        path = self._plan.run / name
        save_checkpoint(path, tensors, self.progress, bundle_id=self._plan.bundle.id)
        if self._observer:
            self._observer.on_save(path, self.progress.step)

    def _diverged(self, how: str) -> RunError:
        kept = f"; {LAST} is the checkpoint before" if (self._plan.run / LAST).exists() else ""
        return RunError(
            f"training diverged: {how}{kept}",
            f"Start another run with a lower --learning-rate than {self._plan.learning_rate:g}",
        )

    def _interrupt_if_asked(self) -> None:
        if self._stop():
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        command = ["edgefuse", "finetune", str(self._plan.bundle.path), str(self._plan.run)]
        raise Interrupted(
            f"stopped after step {self.progress.step} of {self._plan.steps}, "
            f"which {self._plan.run / LAST} holds",
            f"Go on with: {shlex.join([*command, '--resume'])}",
        )
