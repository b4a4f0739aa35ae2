"""How well a model does on labelled texts."""

from collections.abc import Callable
from time import perf_counter

from msgspec import Struct

from edgefuse_runtime.data.tokenization import TokenizedExamples
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.tasks.metrics import accuracy, cross_entropy, macro_f1


class Evaluation(Struct, frozen=True, kw_only=True):
    """Figures over a data file.

    Attributes:
        accuracy: From 0 to 1.
        macro_f1: From 0 to 1.
        loss: Mean cross-entropy in nats.
        rows: Count of texts.
        samples_per_second: Texts a second, tokenization not counted.
    """

    accuracy: float
    macro_f1: float
    loss: float
    rows: int
    samples_per_second: float


def evaluate(
    model: InferenceModel,
    examples: TokenizedExamples,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Classify labelled texts and compare.

    Args:
        model: A bundle's classifier.
        examples: At least one row.
        on_batch: Called with the count of rows after each batch; it may raise to stop.
    """
    begin = perf_counter()
    logits = model.classify(examples.rows, on_batch=on_batch)
    seconds = perf_counter() - begin
    predictions = logits.argmax(axis=1)
    return Evaluation(
        accuracy=accuracy(examples.labels, predictions),
        macro_f1=macro_f1(examples.labels, predictions),
        loss=cross_entropy(logits, examples.labels),
        rows=len(examples.rows),
        samples_per_second=len(examples.rows) / seconds,
    )
