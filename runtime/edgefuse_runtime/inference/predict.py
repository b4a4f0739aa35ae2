"""Texts → labels."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.tokenization import open_tokenizer, tokenize
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.tasks.metrics import softmax


class Prediction(Struct, frozen=True, kw_only=True):
    """What the model makes of a text.

    Attributes:
        text: As given.
        label: The most probable one.
        probability: Its probability.
    """

    text: str
    label: str
    probability: float


def predict(
    bundle: Bundle,
    model: InferenceModel,
    texts: Sequence[str],
    *,
    on_batch: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Classify texts.

    Args:
        bundle: For its tokenizer and labels.
        model: The bundle's classifier.
        texts: What to classify.
        on_batch: Called with the count of texts after each batch.
    """
    rows = tokenize(open_tokenizer(bundle), texts)
    probabilities = softmax(model.classify(rows, on_batch=on_batch))
    labels = bundle.manifest.labels
    return [
        Prediction(text=text, label=labels[row.argmax()], probability=float(row.max()))
        for text, row in zip(texts, probabilities, strict=True)
    ]
