"""How well a model does on rows with targets."""

from time import perf_counter

from msgspec import Struct

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.task import Figures


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
    on_progress: OnProgress = silent,
) -> Evaluation:
    """Run a model over rows with targets and compare.

    Args:
        bundle: The bundle whose task it is.
        model: The bundle's model.
        dataset: At least one row.
        on_progress: Observer, called after every batch; it may raise to stop.
    """
    metric = bundle.manifest.task.metric()
    done, begin = 0, perf_counter()
    for indices, feeds, outputs in model.over(dataset):
        metric.update([dataset.examples[index] for index in indices], feeds, outputs)
        done += len(indices)
        on_progress("Evaluating", done, len(dataset))
    seconds = perf_counter() - begin
    return Evaluation(
        task=bundle.manifest.task.name,
        figures=metric.result(),
        rows=len(dataset),
        samples_per_second=len(dataset) / seconds,
    )
