"""Load a model as a text classifier."""

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from edgefuse.artifact.compressed import load
from edgefuse.bundling.labels import NEW_HEAD, brings_head
from edgefuse.hub.source import ModelSource
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.layers.fused import put_beside
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ExportTask

_UNSUPPORTED = {
    "multi_label_classification": "several labels a text",
    "regression": "numbers (regression)",
}


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
    if model.config.problem_type is not None:  # of a head that it no longer has
        model.config.problem_type = "single_label_classification"
    put_beside(model)
    return model


def set_padding(model: PreTrainedModel, padding_id: int | None) -> None:
    """Set the token id that a model takes for padding to its tokenizer's, in place."""
    if padding_id is not None or model.config.pad_token_id is None:
        model.config.pad_token_id = padding_id or 0


def check_architecture(config: PretrainedConfig, name: str) -> None:
    """Refuse models that cannot classify in a graph.

    Raises:
        ModelError: It has a head for several labels at once or for numbers; it is an
            encoder-decoder model, which classifies by the state at a token that it looks for; it
            reads pictures or sound too; or transformers has no classifier of its kind.
    """
    problem = config.problem_type or ("regression" if config.num_labels == 1 else "")
    if brings_head(config) and problem in _UNSUPPORTED:
        raise ModelError(
            f"{name} was saved with a head for {_UNSUPPORTED[problem]}, and EdgeFuse trains "
            "classifiers of one label a text so far",
            f"Choose a classifier of one label a text, or {NEW_HEAD}",
        )
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
