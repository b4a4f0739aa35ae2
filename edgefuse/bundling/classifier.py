"""Load a model as a text classifier."""

from collections.abc import Sequence

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from edgefuse.artifact.compressed import load
from edgefuse.hub.source import ModelSource
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.layers.fused import put_beside
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ExportTask


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
        padding_id: Token id that pads: a decoder looks for the last token before it. None where
            nothing will be computed.

    Returns:
        The model, float32, in evaluation mode, in the form that graphs are made of: with eager
        attention, and with every expert of a stack computed.

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
    """Set the token id that a model takes for padding to its tokenizer's, in place."""
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
