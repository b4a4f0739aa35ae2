"""Text-to-text generation: a decoder writes a text for the text that its encoder reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.generation import generation_settings
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.tasks.text2text_generation import TARGET, Text2TextGeneration

if TYPE_CHECKING:
    from torch import nn
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_PROBE = "turn on the lamp"


@dataclass(frozen=True)
class Text2TextGenerationExport:
    """How an encoder-decoder is traced.

    Attributes:
        task: Where the decoder starts and ends.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "decoder_input_ids")
    targets: ClassVar[tuple[str, ...]] = (TARGET,)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "SEQ_2_SEQ_LM"
    training_api_loss: ClassVar[str | None] = None
    needs_head: ClassVar[bool] = True

    task: Text2TextGeneration

    def model_options(self) -> dict[str, Any]:
        """None: the head is the model's own."""
        return {}

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean cross-entropy of the next tokens, and logits."""
        from edgefuse_export.losses.text2text_generation import DecoderLoss

        return DecoderLoss(model)

    def token_loss(self, model: "nn.Module") -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""


@dataclass(frozen=True)
class WantedText2TextGeneration(WantedTask):
    """Text-to-text generation as a user asks for it.

    Attributes:
        target_length: Most tokens of a completion; None for as many as a prompt's.
    """

    name: ClassVar[str] = "text2text-generation"
    summary: ClassVar[str] = "a text for a text, by an encoder and a decoder"

    target_length: int | None = option(
        None, help="Most tokens of a completion.", shown="as --sequence-length"
    )

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The tokens between which a model's decoder writes.

        Raises:
            ModelError: The model is no pair of an encoder and a decoder, it does not say where its
                decoder starts or ends, or its tokenizer cannot write a completion.
            InputError: An option does not hold.
        """
        check_architecture(facts.config, facts.name, Text2TextGeneration)
        if self.target_length is not None and self.target_length < 2:
            raise InputError(f"--target-length is {self.target_length}", "Give at least 2")
        settings = _generation_settings(facts)
        start = getattr(facts.config, "decoder_start_token_id", None)
        start = settings.decoder_start_token_id if start is None else start
        ends = _listed(settings.eos_token_id) or _listed(facts.config.eos_token_id)
        if start is None:
            raise _unnamed(facts.name, "decoder_start_token_id", "starts", 0)
        if not ends:
            raise _unnamed(facts.name, "eos_token_id", "ends", 1)
        if facts.tokenizer is not None:
            check_completions(facts.tokenizer, ends, facts.name)
        return Text2TextGenerationExport(
            Text2TextGeneration(
                decoder_start_token_id=start,
                eos_token_ids=ends,
                forced_bos_token_id=settings.forced_bos_token_id,
                forced_eos_token_id=min(_listed(settings.forced_eos_token_id), default=None),
                target_length=self.target_length,
            )
        )

    def check_length(self, length: int) -> None:
        """Refuse completions that may be longer than the prompts' length, at which they are cut.

        Raises:
            InputError: They may.
        """
        if self.target_length is not None and self.target_length > length:
            raise InputError(
                f"--target-length {self.target_length} is above the {length} tokens that texts are "
                "cut to",
                "Give --sequence-length as many, or leave --target-length out",
            )


def check_completions(tokenizer: "PreTrainedTokenizerBase", ends: list[int], name: str) -> None:
    """Refuse a tokenizer by which no completion can be written as its tokenizer.json does texts.

    Raises:
        ModelError: It makes other tokens of a completion than of a prompt, as those of translators
            between languages do, or a text does not end with an end token.
    """
    prompt = tokenizer(_PROBE)["input_ids"]
    if tokenizer(text_target=_PROBE)["input_ids"] != prompt:
        raise ModelError(
            f"The tokenizer of {name} makes other tokens of a completion than of a prompt, as for "
            "another language, and a tokenizer.json cannot say that",
            "Use a model that reads and writes alike, such as T5, mT5 or BART",
        )
    if not prompt or prompt[-1] not in ends:
        raise ModelError(
            f"The tokenizer of {name} does not end a text with the token at which its decoder "
            f"stops ({', '.join(map(str, ends))}), so that none would be learned",
            "Save it with a post-processor that adds it, as T5's tokenizer has",
        )


def _generation_settings(facts: ModelFacts) -> "GenerationConfig":
    """What a model's files say of how it writes."""
    from transformers import GenerationConfig

    settings = generation_settings(facts)
    if settings is not None:
        return GenerationConfig.from_dict(settings)
    return GenerationConfig.from_model_config(facts.config)


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _unnamed(name: str, token: str, does: str, example: int) -> ModelError:
    return ModelError(
        f"{name} names no {token}, at which its decoder {does}",
        f'Write it into its config.json, as T5 has "{token}": {example}',
    )
