"""A round of a squeeze: bonds are cut, the model is evaluated, and trained if need be."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedModel

from edgefuse.layers.chains.modules import chains_of
from edgefuse.squeezing.cutting import cut_chains, make_canonical
from edgefuse.squeezing.importance import importance
from edgefuse.squeezing.record import Round, SqueezeRecord, SqueezeSettings
from edgefuse.squeezing.training import measure, train
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_devices.errors import Interrupted
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.data.batching import Dataset, batches_per_epoch
from edgefuse_runtime.progress import OnProgress
from edgefuse_runtime.tasks.registry import primary_of
from edgefuse_runtime.training.run import TrainingSettings

_BATCHES = 50  # over which importance is averaged
_PASSES = TrainingSettings().epochs  # before the first cut, as many as `finetune` makes
_ROUNDING = 1e-9  # of figures


@dataclass(frozen=True)
class Job:
    """What stays the same through all rounds.

    Attributes:
        settings: How to squeeze.
        task: What the model is for.
        train: Rows to train on.
        valid: Rows to measure on.
        on_progress: Called after every batch.
        stop: Called after every batch; True means to stop.
    """

    settings: SqueezeSettings
    task: ExportTask
    train: Dataset
    valid: Dataset
    on_progress: OnProgress
    stop: Callable[[], bool]

    @property
    def first_steps(self) -> int:
        """Training steps before the first cut."""
        given = self.settings.first_steps
        if given is not None:
            return given
        return _PASSES * batches_per_epoch(len(self.train), self.settings.batch_size)


def cut(job: Job, record: SqueezeRecord, model: PreTrainedModel) -> bool:
    """Cut a model that was kept, in place, the less the more often that has failed.

    Returns:
        Whether anything could be cut.
    """
    settings, index = job.settings, len(record.rounds)
    stage = f"{_title(record)}: what the task needs"

    def on_batch(done: int) -> None:
        job.on_progress(stage, done, _BATCHES)
        _stop_if_asked(job, f"before the cut of round {index}")

    make_canonical(model)
    weighed = importance(
        model,
        job.task,
        job.train,
        count=_BATCHES,
        batch_size=settings.batch_size,
        seed=settings.seed + index,
        on_batch=on_batch,
    )
    return cut_chains(model, _count_to_cut(record, model), weighed)


def evaluate_and_train(job: Job, record: SqueezeRecord, model: PreTrainedModel) -> Round:
    """Evaluate a model that was cut, and train it, in place, where it lost too much.

    The first round, in which nothing is cut, trains without being evaluated before.
    """
    settings, index = job.settings, len(record.rounds)
    if index:
        reached = _reached(job, model)
        if _is_within(record, reached.figure):
            return _round(model, reached, steps=0, kept=True)
    steps = settings.steps if index else job.first_steps
    stage = f"{_title(record)}: training"

    def on_step(done: int) -> None:
        job.on_progress(stage, done, steps)
        _stop_if_asked(job, f"in round {index}, after {done} of {steps} steps")

    train(
        model,
        job.task,
        job.train,
        way=Mpo(auxiliary_rate=settings.auxiliary_rate),
        steps=steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed + index,
        on_step=on_step,
    )
    reached = _reached(job, model)
    within = not index or _is_within(record, reached.figure)
    return _round(model, reached, steps=steps, kept=within)


class _Reached(NamedTuple):
    measure: str
    figure: float


def _round(model: PreTrainedModel, reached: _Reached, *, steps: int, kept: bool) -> Round:
    return Round(
        parameters=model.num_parameters(),
        measure=reached.measure,
        figure=reached.figure,
        steps=steps,
        kept=kept,
    )


def _reached(job: Job, model: PreTrainedModel) -> _Reached:
    figures = measure(model, job.task, job.valid)
    primary = primary_of(job.task.task.figures, figures)
    return _Reached(primary.name, figures[primary.name])


def _is_within(record: SqueezeRecord, reached: float) -> bool:
    """Whether no more was lost than may be."""
    lost = record.rounds[0].figure - reached
    if not record.measure.higher_is_better:
        lost = -lost
    return lost <= record.settings.max_drop / 100 + _ROUNDING


def _count_to_cut(record: SqueezeRecord, model: PreTrainedModel) -> int:
    """A step's part, no more than the budget asks for, and half of what was just too much."""
    chained: int = sum(t.numel() for chain in chains_of(model).values() for t in chain.tensors)
    step = math.ceil(chained * record.settings.step * 0.5**record.failures)
    count = min(step, record.excess)
    last, kept = record.rounds[-1], record.rounds[record.kept]
    if last.kept:
        return count
    return min(count, (kept.parameters - last.parameters + 1) // 2)


def _title(record: SqueezeRecord) -> str:
    """What progress calls the round that follows, with what was reached before."""
    title = f"Round {len(record.rounds)}"
    if not record.rounds:
        return title
    kept = record.rounds[record.kept]
    reached = record.measure.text(kept.figure)
    return f"{title}, from {kept.parameters / 1e6:.2f} M parameters at {reached}"


def _stop_if_asked(job: Job, when: str) -> None:
    if job.stop():
        raise Interrupted(
            f"stopped {when}",
            "Give the same command again with --resume to go on with this round",
        )
