"""How well a model does on rows with targets."""

from time import perf_counter
from typing import Any

from msgspec import Struct

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.task import Figures, JudgesPredictions


class Evaluation(Struct, frozen=True, kw_only=True):
    """Figures over a data file.

    Attributes:
        task: Name of the task.
        figures: The task's figures of merit by name, the primary one first.
        rows: Count of rows.
        samples_per_second: Rows a second, tokenization not counted.
    """

    task: str
    figures: Figures
    rows: int
    samples_per_second: float


def evaluate_model(
    bundle: Bundle,
    model: InferenceModel,
    dataset: Dataset,
    *,
    options: Any = None,
    on_progress: OnProgress = silent,
) -> Evaluation:
    """Run a model over rows with targets and compare.

    Args:
        bundle: The bundle whose task it is.
        model: The bundle's model.
        dataset: At least one row.
        options: The task's `evaluation_options`; None for the defaults.
        on_progress: Observer, called after every batch; it may raise to stop.

    Raises:
        DataError: The options ask for figures of predictions, and a row has nothing to compare
            them with, or no room for one; the first batch has not begun.
    """
    task = bundle.manifest.task
    metric, judge = task.metric(), None
    if options is not None and isinstance(task, JudgesPredictions):
        judge = task.prediction_metric(model, options)
    if judge:
        judge.check(dataset.examples)
    done, begin = 0, perf_counter()
    for indices, feeds, outputs in model.over(dataset):
        examples = [dataset.examples[index] for index in indices]
        metric.update(examples, feeds, outputs)
        del outputs  # before predicting makes others of their size
        if judge:
            judge.update(examples)
        done += len(indices)
        on_progress("Evaluating", done, len(dataset))
    seconds = perf_counter() - begin
    return Evaluation(
        task=task.name,
        figures=metric.result() | (judge.result() if judge else {}),
        rows=dataset.rows,
        samples_per_second=dataset.rows / seconds,
    )
