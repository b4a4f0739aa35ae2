"""Text classification with a model: whether it can classify, and by which labels."""

from collections.abc import Sequence

from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PretrainedConfig

from edgefuse.bundling.labels import NEW_HEAD, brings_head, choose_labels
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.tasks.text_classification import TextClassification

_UNSUPPORTED = {
    "multi_label_classification": "several labels a text",
    "regression": "numbers (regression)",
}


def classification(
    config: PretrainedConfig, labels: Sequence[str] | frozenset[str], name: str
) -> TextClassification:
    """Make the task of classifying by the labels that were given, as far as a model allows it.

    Args:
        config: Configuration of the model.
        labels: Names of the classes in order, or a set of those that rows have.
        name: Name of the model, for messages.

    Raises:
        ModelError: The model cannot classify in a graph, or brings a head for other classes.
    """
    check_architecture(config, name)
    return TextClassification(labels=choose_labels(config, labels, name))


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
