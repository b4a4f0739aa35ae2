"""Text generation: a causal language model's next token."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.generation import chat_template_of, end_ids, special_tokens_of
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.tasks.text_generation import TARGET, TextGeneration

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TextGenerationExport:
    """How a causal language model is traced.

    Attributes:
        task: The ends of texts, and the chat template.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    targets: ClassVar[tuple[str, ...]] = (TARGET,)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "CAUSAL_LM"
    training_api_loss: ClassVar[str | None] = None
    needs_head: ClassVar[bool] = True

    task: TextGeneration

    def model_options(self) -> dict[str, Any]:
        """Nothing: the head is the model's own."""
        return {}

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean cross-entropy of the tokens to learn, and logits."""
        from edgefuse_export.losses.next_token import CausalLoss

        return CausalLoss(model)

    def token_loss(self, model: "nn.Module") -> "nn.Module":
        """Cross-entropy of each token to learn."""
        from edgefuse_export.losses.next_token import TokenLosses

        return TokenLosses(model)

    def decoder(self, model: "nn.Module") -> "nn.Module | None":
        """The model with its cache, if it takes one."""
        from edgefuse_export.losses.decoder import Decoder, takes_cache

        return Decoder(model) if takes_cache(model) else None

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""


@dataclass(frozen=True)
class WantedTextGeneration(WantedTask):
    """Text generation as a user asks for it."""

    name: ClassVar[str] = "text-generation"
    summary: ClassVar[str] = "how a text goes on: completions, answers"

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The model's own head, which must be there already.

        Raises:
            ModelError: The model has no language model's head, or reads texts in both directions,
                or has no token that ends a text.
        """
        check_architecture(facts.config, facts.name, TextGeneration)
        ends, template = end_ids(facts), chat_template_of(facts.tokenizer)
        dated = template is not None and "strftime_now" in template
        return TextGenerationExport(
            TextGeneration(
                end_id=ends[0],
                stop_ids=ends,
                chat_template=template,
                special_tokens=special_tokens_of(facts.tokenizer),
                date=datetime.now().astimezone().date() if dated else None,
            )
        )
