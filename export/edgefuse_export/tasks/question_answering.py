"""Question answering: the part of a text that answers a question."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import check_architecture, takes_token_types
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.data.tokenization import TYPE_IDS
from edgefuse_runtime.tasks.question_answering import OUTPUTS, TARGETS, QuestionAnswering

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class QuestionAnsweringExport:
    """How a model for answers is traced.

    Attributes:
        task: Windows of long contexts, and what the model takes.
    """

    targets: ClassVar[tuple[str, ...]] = TARGETS
    outputs: ClassVar[tuple[str, ...]] = OUTPUTS
    peft_type: ClassVar[str] = "QUESTION_ANS"
    training_api_loss: ClassVar[str | None] = None
    needs_head: ClassVar[bool] = False

    task: QuestionAnswering

    @property
    def inputs(self) -> tuple[str, ...]:
        """Token ids and mask, and token types where the model has them."""
        types = (TYPE_IDS,) if self.task.token_types else ()
        return ("input_ids", "attention_mask", *types)

    def model_options(self) -> dict[str, Any]:
        """Two outputs a token: first and last of an answer."""
        return {"num_labels": 2}

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean cross-entropy of both ends, and their logits."""
        from edgefuse_export.losses.question_answering import (
            SpanCrossEntropy,
            TypedSpanCrossEntropy,
        )

        return TypedSpanCrossEntropy(model) if self.task.token_types else SpanCrossEntropy(model)

    def token_loss(self, model: "nn.Module") -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""


@dataclass(frozen=True)
class WantedQuestionAnswering(WantedTask):
    """Question answering as a user asks for it.

    Attributes:
        doc_stride: Count of tokens that neighbouring windows of a long context share; None for 128,
            or a third of shorter windows.
        unanswerable: Whether a context may be without an answer.
    """

    name: ClassVar[str] = "question-answering"
    summary: ClassVar[str] = "the part of a text that answers a question"

    doc_stride: int | None = option(
        None,
        help="Tokens that neighbouring windows of a long context share.",
        shown="128, or a third of the sequence length",
    )
    unanswerable: bool = option(
        default=False, help="Some contexts have no answer, as in SQuAD 2.0.", shown=""
    )

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The task with the token that a window without the answer points to.

        Raises:
            ModelError: transformers has no head of the kind for the model.
            InputError: The stride is negative.
        """
        check_architecture(facts.config, facts.name, QuestionAnswering)
        if self.doc_stride is not None and self.doc_stride < 0:
            raise InputError(f"--doc-stride is {self.doc_stride}", "Give 0 or more tokens")
        return QuestionAnsweringExport(
            QuestionAnswering(
                doc_stride=self.doc_stride,
                unanswerable=self.unanswerable,
                token_types=takes_token_types(facts, QuestionAnswering),
                null_tokens=_null_tokens(facts),
            )
        )

    def check_length(self, length: int) -> None:
        """Refuse windows that would share all of their tokens.

        Raises:
            InputError: The stride is as long as a window.
        """
        if self.doc_stride is not None and self.doc_stride >= length:
            raise InputError(
                f"--doc-stride {self.doc_stride} is no less than the {length} tokens of a window",
                f"Give {length // 3}, say, or a longer --sequence-length",
            )


def _null_tokens(facts: ModelFacts) -> list[int]:
    """CLS, or the token that begins a text, as run_qa.py of transformers chooses them."""
    if facts.tokenizer is None:
        return []
    tokens = (facts.tokenizer.cls_token_id, facts.tokenizer.bos_token_id)
    return [token for token in tokens if isinstance(token, int)]
