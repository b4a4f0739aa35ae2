"""The classes that a user asks for, and those of the head that a model brings."""

from collections.abc import Collection, Sequence

from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PretrainedConfig

from edgefuse_devices.errors import ModelError
from edgefuse_runtime.tasks.labels import LabelIndex

NEW_HEAD = "save its encoder alone, which gets a new head: `model.base_model.save_pretrained(…)`"
"""What to do about a head that does not fit."""

_LISTED = 12
_UNSUPPORTED = {
    "multi_label_classification": "several labels a text",
    "regression": "numbers (regression)",
}


def choose_labels(
    config: PretrainedConfig, given: Sequence[str] | frozenset[str], name: str
) -> list[str]:
    """Names of the classes, in the order of the logits.

    The order of a new head is free. Of a head that the model brings it is fixed: names that the
    head knows, in whatever case, are the head's own; whole numbers are indices of its classes.
    Another list of names is taken as its order, for somebody wrote it so; a set has no order.

    Args:
        config: Configuration of the model.
        given: Names that somebody ordered, or a set of labels that rows have.
        name: Name of the model, for messages.

    Raises:
        ModelError: The labels do not say which of the head's classes they are.
    """
    if not brings_head(config):
        return list(given) if isinstance(given, Sequence) else _sorted(given)
    own = _own_names(config)
    if isinstance(given, Sequence) and len(given) != len(own):
        raise _misfit(name, own, given)
    index = LabelIndex(own)
    places = [index.find(label) for label in given]
    if None not in places:
        return own
    numbered = [str(number) for number in range(len(own))]
    if set(given) <= set(numbered) and not any(label.isdecimal() for label in own):
        return numbered
    in_order = all(place in (None, position) for position, place in enumerate(places))
    if isinstance(given, Sequence) and in_order:
        return list(given)
    raise _misfit(name, own, _sorted(given))


def brings_head(config: PretrainedConfig) -> bool:
    """Whether a model was saved as a classifier."""
    return any(kind.endswith("Classification") for kind in config.architectures or ())


def _own_names(config: PretrainedConfig) -> list[str]:
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return [names[index] for index in sorted(names)]


def _sorted(labels: Collection[str]) -> list[str]:
    """Labels as people sort them: whole numbers by their value."""
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _misfit(name: str, own: Sequence[str], given: Sequence[str]) -> ModelError:
    head = f"{name} was saved with a head for {len(own)} classes"
    if len(own) != len(given):
        return ModelError(
            f"{head} ({_listed(own)}), and {len(given)} are given ({_listed(given)})",
            f"Name those, or {NEW_HEAD}",
        )
    return ModelError(
        f"{head} ({_listed(own)}), and others are given ({_listed(given)})",
        "Name the head's classes in id2label of its config.json, or give `edgefuse export` their "
        f"names in the head's order, one a line: --labels labels.txt; or {NEW_HEAD}",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


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
