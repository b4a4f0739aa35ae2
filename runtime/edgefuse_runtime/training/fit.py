"""A part of training: some steps from given parameters, without a run around them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import RunError
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.machine.threads import threads_for
from edgefuse_runtime.training.course import Course, StepOutcome, are_finite, check_accumulation
from edgefuse_runtime.training.run import TrainingSettings


def fit(
    bundle: Bundle,
    parameters: Mapping[str, NDArray[Any]],
    dataset: Dataset,
    *,
    steps: int,
    settings: TrainingSettings | None = None,
    on_step: Callable[[StepOutcome], None] = lambda _: None,
) -> Tensors:
    """Train for some steps, from given parameters and a new optimizer.

    Nothing is read or written but the bundle: what a member of a fleet does in a round.

    Args:
        bundle: An opened bundle.
        parameters: Values of all trained parameters by name, such as `bundle.trainable()`.
        dataset: What to train on, such as `bundle.read(file)`.
        steps: Count of steps; the learning rate rises and falls over them.
        settings: How to train; `epochs` and `save_every` mean nothing here, and
            all rows of a batch are computed at once where it does not say how many.
        on_step: Called after each step.

    Returns:
        The parameters after the steps, copies by name.

    Raises:
        RunError: Training diverged, or the task or the engine cannot accumulate gradients.
    """
    settings = settings or TrainingSettings()
    manifest = bundle.manifest
    batch_size = settings.batch_size or manifest.batch_size
    course = Course(
        bundle=bundle,
        dataset=dataset,
        batch_size=batch_size,
        rows_at_once=settings.rows_at_once or batch_size,
        parts=settings.gradient_accumulation_steps,
        steps=steps,
        peak=settings.learning_rate or manifest.tuning.learning_rate,
        warmup_ratio=settings.warmup_ratio,
        seed=settings.seed,
    )
    if course.accumulates:
        check_accumulation(bundle, dataset)
    engine = open_engine(
        bundle,
        threads=threads_for(manifest.device, settings.threads),
        token_ids=dataset.token_ids,
        seed=settings.seed,
        accumulates=course.accumulates,
        kept_layers=settings.kept_layers or 0,
    )
    engine.set_parameters(parameters)
    for step in range(steps):
        outcome = course.take(engine, step)
        if outcome.divergence:
            raise _diverged(outcome.divergence, course.peak)
        on_step(outcome)
    trained = {name: np.array(value) for name, value in engine.parameters().items()}
    if not are_finite(trained):
        raise _diverged("the parameters are not finite", course.peak)
    return trained


def _diverged(what: str, peak: float) -> RunError:
    return RunError(f"training diverged: {what}", f"Train with a lower learning rate than {peak:g}")
