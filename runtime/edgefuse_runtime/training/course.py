"""The course of training: which rows and which learning rate each step has."""

import math
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from edgefuse_devices.errors import RunError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import (
    Dataset,
    Feeds,
    RowIndices,
    batches_per_epoch,
    training_batches,
)
from edgefuse_runtime.engines.engine import Engine, Part, Tensors
from edgefuse_runtime.training.schedule import learning_rate


def are_finite(tensors: Tensors) -> bool:
    """Whether no number of any tensor is NaN or infinite."""
    return all(np.isfinite(np.sum(tensor)) for tensor in tensors.values())


@dataclass(frozen=True)
class StepOutcome:
    """A step that was taken.

    Attributes:
        step: Number of the step, from 1.
        loss: Mean loss of the batch before the update.
        gradient_norm: Global norm before clipping.
        learning_rate: Learning rate of the step.
        rows: Count of rows in the batch.
        tokens: Count of their tokens, padding not counted.
        seconds: Time in the engine.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    rows: int
    tokens: int
    seconds: float

    @property
    def divergence(self) -> str:
        """What is not finite, as `the loss of step 7 is nan`; empty where all is well."""
        for name, value in (("loss", self.loss), ("gradient norm", self.gradient_norm)):
            if not math.isfinite(value):
                return f"the {name} of step {self.step} is {value}"
        return ""


def why_not_in_parts(bundle: Bundle, dataset: Dataset) -> str:
    """Why a bundle cannot be trained by steps in parts, as a sentence; empty where it can."""
    manifest = bundle.manifest
    feeds = manifest.task.collate(dataset.examples[:1], padding_id=manifest.padding_id)
    if manifest.engine.no_accumulation:
        return f"{manifest.engine.name} {manifest.engine.no_accumulation}"
    if manifest.task.terms(feeds) is None:
        return (
            f"the loss of {manifest.task.name} holds the rows of a batch against one another, so "
            "that it cannot be computed in parts"
        )
    return ""


def check_accumulation(bundle: Bundle, dataset: Dataset) -> None:
    """Check that a bundle can be trained by steps of several batches.

    Raises:
        RunError: The engine cannot add gradients up, or the task's loss does not divide.
    """
    if why := why_not_in_parts(bundle, dataset):
        raise RunError(
            why, "Leave --gradient-accumulation-steps out, and choose --batch-size alone"
        )


@dataclass(frozen=True)
class Course:
    """Steps over a data set: rows and rate of each are a pure function of its index.

    Attributes:
        bundle: The bundle that is trained.
        dataset: What it is trained on.
        batch_size: Rows in a batch.
        rows_at_once: Rows whose gradients are computed at once; a batch of more comes in parts.
        parts: Batches in a step, whose gradients are added up.
        steps: Count of all steps.
        peak: The highest learning rate.
        warmup_ratio: Share of the steps in which the rate rises.
        seed: Seed of the rows' order.
    """

    bundle: Bundle
    dataset: Dataset
    batch_size: int
    steps: int
    peak: float
    warmup_ratio: float
    seed: int
    rows_at_once: int
    parts: int = 1
    _orders: dict[int, list[RowIndices]] = field(default_factory=dict, init=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Count of steps in an epoch."""
        return batches_per_epoch(len(self.dataset), self._rows)

    @property
    def accumulates(self) -> bool:
        """Whether a step comes in parts."""
        return self.rows_at_once < self._rows

    @property
    def _rows(self) -> int:
        return self.batch_size * self.parts

    def take(self, engine: Engine, step: int) -> StepOutcome:
        """Take a step.

        Args:
            engine: The engine, which has taken all steps before.
            step: Index of the step, from 0.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[position]
        parts = self._parts(rows)
        rate = learning_rate(
            step, peak=self.peak, total_steps=self.steps, warmup_ratio=self.warmup_ratio
        )
        begin = perf_counter()
        if len(parts) == 1:
            result = engine.step(parts[0].feeds, rate)
        else:
            result = engine.step_in_parts(parts, rate)
        return StepOutcome(
            step=step + 1,
            loss=result.loss,
            gradient_norm=result.gradient_norm,
            learning_rate=rate,
            rows=len(rows),
            tokens=int(self.dataset.lengths[rows].sum()),
            seconds=perf_counter() - begin,
        )

    def rows_of(self, step: int) -> list[int]:
        """Numbers of a step's rows in the data, from 1, in order; of a row's parts once."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.dataset.row_numbers(self._order(epoch)[position])

    def _parts(self, rows: RowIndices) -> list[Part]:
        """The batches of a step, without those of which no term counts, if any does."""
        at_once = self.rows_at_once
        batches = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
        feeds = [self._collate(batch) for batch in batches]
        if len(feeds) == 1:
            return [Part(feeds[0], 1.0)]
        terms = [self.bundle.manifest.task.terms(batch) or 0.0 for batch in feeds]
        whole = sum(terms)
        if not whole:
            return [Part(feeds[0], 1.0)]
        return [Part(batch, n / whole) for batch, n in zip(feeds, terms, strict=True) if n]

    def _collate(self, rows: RowIndices) -> Feeds:
        manifest = self.bundle.manifest
        examples = [self.dataset.examples[row] for row in rows]
        return manifest.task.collate(examples, padding_id=manifest.padding_id)

    def _order(self, epoch: int) -> list[RowIndices]:
        """Rows of each batch of an epoch; the last epoch asked for is kept."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = training_batches(
                self.dataset.lengths, self._rows, seed=self.seed, epoch=epoch
            )
        return self._orders[epoch]
