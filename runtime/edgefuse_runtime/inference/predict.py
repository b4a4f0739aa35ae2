"""What a model makes of texts, or of rows without targets."""

from collections.abc import Iterator, Sequence
from typing import Any

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset, evaluation_batches
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.task import Asked, Prediction, StreamsText


def predict(
    bundle: Bundle,
    model: InferenceModel,
    asked: Sequence[Asked],
    *,
    options: Any = None,
    on_progress: OnProgress = silent,
) -> list[Prediction]:
    """Predict for texts or rows, in their order.

    Args:
        bundle: The bundle whose task it is.
        model: The bundle's model.
        asked: At least one text or row.
        options: The task's `prediction_options`; None for the defaults.
        on_progress: Observer, called after every batch.

    Raises:
        DataError: One has no token, or lacks a field that the task needs.
    """
    task = bundle.manifest.task
    options = options or task.prediction_options()
    dataset = Dataset(task.examples(asked, model.tokenizer))
    predictions: dict[int, Prediction] = {}
    for indices in evaluation_batches(dataset.lengths, bundle.manifest.batch_size):
        batch = task.predict([dataset.examples[index] for index in indices], model, options)
        predictions.update(zip(indices.tolist(), batch, strict=True))
        on_progress("Predicting", len(predictions), len(asked))
    return [predictions[index] for index in range(len(asked))]


def stream(
    bundle: Bundle, model: InferenceModel, asked: Sequence[Asked], *, options: Any
) -> Iterator[str]:
    """Predict for texts or rows, in their order, and give the predictions' text as it comes.

    Args:
        bundle: The bundle whose task it is.
        model: The bundle's model.
        asked: At least one text or row.
        options: The task's `prediction_options`.

    Yields:
        Pieces of text; a newline ends each prediction.

    Raises:
        DataError: One has no token, or lacks a field that the task needs.
    """
    task = bundle.manifest.task
    if not isinstance(task, StreamsText):
        for prediction in predict(bundle, model, asked, options=options):
            yield f"{prediction}\n"
        return
    for example in task.examples(asked, model.tokenizer):
        yield from task.stream(example, model, options)
        yield "\n"
