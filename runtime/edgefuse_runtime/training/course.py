"""The course of training: which rows and which learning rate each step has."""

import math
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import (
    Dataset,
    RowIndices,
    batches_per_epoch,
    training_batches,
)
from edgefuse_runtime.engines.engine import Engine, Tensors
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


@dataclass(frozen=True)
class Course:
    """Steps over a data set: rows and rate of each are a pure function of its index.

    Attributes:
        bundle: The bundle that is trained.
        dataset: What it is trained on.
        batch_size: Rows in a batch.
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
    _orders: dict[int, list[RowIndices]] = field(default_factory=dict, init=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Count of batches in an epoch."""
        return batches_per_epoch(len(self.dataset), self.batch_size)

    def take(self, engine: Engine, step: int) -> StepOutcome:
        """Take a step.

        Args:
            engine: The engine, which has taken all steps before.
            step: Index of the step, from 0.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[position]
        manifest = self.bundle.manifest
        feeds = manifest.task.collate(
            [self.dataset.examples[row] for row in rows], padding_id=manifest.padding_id
        )
        rate = learning_rate(
            step, peak=self.peak, total_steps=self.steps, warmup_ratio=self.warmup_ratio
        )
        begin = perf_counter()
        result = engine.step(feeds, rate)
        return StepOutcome(
            step=step + 1,
            loss=result.loss,
            gradient_norm=result.gradient_norm,
            learning_rate=rate,
            rows=len(rows),
            tokens=int(self.dataset.lengths[rows].sum()),
            seconds=perf_counter() - begin,
        )

    def _order(self, epoch: int) -> list[RowIndices]:
        """Rows of each batch of an epoch; the last epoch asked for is kept."""
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = training_batches(
                self.dataset.lengths, self.batch_size, seed=self.seed, epoch=epoch
            )
        return self._orders[epoch]
