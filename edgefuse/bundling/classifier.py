"""Load a model as a text classifier."""

from collections.abc import Sequence

from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from edgefuse.artifact.compressed import load
from edgefuse.hub.model import position_count
from edgefuse.hub.source import ModelSource
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.layers.fused import put_beside
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.task import ExportTask

USUAL_LENGTH = 128
"""Tokens of a sequence, unless the user or the model says otherwise."""


def labels_of_head(config: PretrainedConfig, labels: Sequence[str]) -> list[str]:
    """Names of classes in the order of the head that a model brings, if it knows those names."""
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    own = [names[index] for index in sorted(names)]
    return own if brings_head(config) and sorted(own) == sorted(labels) else list(labels)


def brings_head(config: PretrainedConfig) -> bool:
    """Whether a model was saved as a classifier."""
    return any(kind.endswith("Classification") for kind in config.architectures or ())


def load_with_head(
    source: ModelSource, task: ExportTask, *, padding_id: int | None
) -> PreTrainedModel:
    """Load a model with a task's head, which is new where the model brings none.

    Args:
        source: A plain model, or a compressed one, which gets its P standalone.
        task: What the model is trained for.
        padding_id: Token that pads: a decoder looks for the last one before it. None where nothing
            will be computed.

    Returns:
        Float32, in evaluation mode, in the form that graphs are made of: with eager attention,
        and of experts in one stack every one computed.

    Raises:
        ModelError: The model is broken, or cannot have the head.
    """
    model = load(
        source,
        task.model_class(),
        **task.model_options(),
        attn_implementation="eager",
        experts_implementation=every_expert_by_name(),
    )
    set_padding(model, padding_id)
    put_beside(model)
    return model


def set_padding(model: PreTrainedModel, padding_id: int | None) -> None:
    """Have a model know the token that its tokenizer pads with, whatever it was saved with."""
    if padding_id is not None or model.config.pad_token_id is None:
        model.config.pad_token_id = padding_id or 0


def check_architecture(config: PretrainedConfig, name: str) -> None:
    """Refuse models that cannot classify in a graph.

    Raises:
        ModelError: It is an encoder-decoder model, which classifies by the state at a token that it
            looks for; it reads pictures or sound too; or transformers has no classifier of its
            kind.
    """
    if config.is_encoder_decoder:
        reason = f"{config.model_type} models have an encoder and a decoder"
    elif config.get_text_config() is not config:
        reason = f"{config.model_type} models read more than text"
    elif type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        reason = f"transformers has no classifier of {config.model_type} models"
    else:
        return
    raise ModelError(
        f"{name} cannot be exported: {reason}",
        "Use an encoder such as BERT or ModernBERT, or a decoder such as Llama or GPT-2",
    )


def check_head(config: PretrainedConfig, labels: Sequence[str], name: str) -> None:
    """A head that the model brings is kept; transformers does not say which one does not fit.

    Raises:
        ModelError: It is one for another count of classes.
    """
    if brings_head(config) and config.num_labels != len(labels):
        raise ModelError(
            f"{name} was saved with a head for {config.num_labels} classes, and {len(labels)} are "
            "given",
            "Name that many, or save its encoder alone, which gets a new head: "
            "`model.base_model.save_pretrained(…)`",
        )


def longest_sequence(model: PreTrainedModel) -> int:
    """Tokens that the position embeddings reach; RoBERTa's begin behind its padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return position_count(model.config) or USUAL_LENGTH


def choose_length(given: int | None, longest: int, *, prefix: int = 0) -> int:
    """Tokens of a sequence: those given, or the usual ones where the model takes so many.

    Args:
        given: By the user, if at all.
        longest: Of what the model takes.
        prefix: How many of these stand before the text.

    Raises:
        InputError: The model does not take the length that is given, or any.
    """
    longest -= prefix
    if longest < 2:
        raise InputError(
            "What stands before the text leaves no position for it", "Give a lower --prefix-length"
        )
    length = min(USUAL_LENGTH, longest) if given is None else given
    if not 2 <= length <= longest:
        taken = f", with {prefix} positions of a prefix before them" if prefix else ""
        raise InputError(
            f"--sequence-length {length} is outside 2 to {longest}, which the model takes{taken}",
            "Give one within that, or leave it out",
        )
    return length
