"""Texts → predictions."""

from collections.abc import Sequence

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.task import Prediction


def predict_texts(
    bundle: Bundle,
    model: InferenceModel,
    texts: Sequence[str],
    *,
    on_progress: OnProgress = silent,
) -> list[Prediction]:
    """Predict for texts, in their order.

    Args:
        bundle: The bundle whose tokenizer and task are used.
        model: The bundle's model.
        texts: At least one text.
        on_progress: Observer, called after every batch.

    Raises:
        DataError: A text has no token.
    """
    task = bundle.manifest.task
    dataset = Dataset(task.examples(texts, bundle.tokenizer()))
    predictions: dict[int, Prediction] = {}
    for indices, _, outputs in model.over(dataset):
        batch = task.predict([texts[index] for index in indices], outputs)
        predictions.update(zip(indices.tolist(), batch, strict=True))
        on_progress("Predicting", len(predictions), len(texts))
    return [predictions[index] for index in range(len(texts))]
