"""Which tasks a model's architecture can be trained for."""

import inspect
from typing import TYPE_CHECKING, Any

from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ModelFacts
from edgefuse_runtime.data.tokenization import TYPE_IDS
from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks import registry
from edgefuse_runtime.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_architecture(config: "PretrainedConfig", name: str, task: type[Task]) -> None:
    """Refuse a model that cannot be trained for a task, and name the tasks that it can.

    Args:
        config: Configuration of the model.
        name: Name of the model, for messages.
        task: Kind of the task.

    Raises:
        ModelError: It reads more than text; it has an encoder and a decoder where the task wants
            one stack, or the other way round; or transformers has no such head of its kind.
    """
    reason = _refusal(config, task)
    if not reason:
        return
    others = [name_of(other) for other in registry.TASKS if not _refusal(config, other)]
    raise ModelError(
        f"{name} cannot be exported for {name_of(task)}: {reason}",
        f"It can be exported with --task {' or --task '.join(others)}"
        if others
        else "Use an encoder such as BERT, a decoder such as Llama, or both such as T5",
    )


def brings_head(config: "PretrainedConfig", task: type[Task]) -> bool:
    """Whether a model was saved with the head of a task."""
    ending = task.auto_class.removeprefix("AutoModel")
    return any(kind.endswith(ending) for kind in config.architectures or ())


def likely_task(config: "PretrainedConfig") -> type[Task] | None:
    """The task of the head that a model was saved with, or else the first that it can be given.

    Args:
        config: Configuration of the model.

    Returns:
        The task; None where the model can be trained for none.
    """
    possible = [task for task in registry.TASKS if not _refusal(config, task)]
    saved = set(config.architectures or ()) - {c.__name__ for c in _classes(config, "AutoModel")}
    own = (
        task
        for task in possible
        if saved & {kind.__name__ for kind in _classes(config, task.auto_class)}
    )
    return next(own, next(iter(possible), None))


def takes_token_types(facts: ModelFacts, task: type[Task]) -> bool:
    """Whether a model tells the two texts of a pair apart by token type ids.

    Args:
        facts: What is known of the model.
        task: Kind of the task.

    Returns:
        Whether it embeds more than one type, its class with the task's head takes them, and its
        tokenizer gives them to whoever calls it: in plain transformers they would be zeros else.
    """
    import transformers

    config, tokenizer = facts.config, facts.tokenizer
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:
        return False
    kind = getattr(transformers, task.auto_class)._model_mapping[type(config)]  # noqa: SLF001
    taken = TYPE_IDS in inspect.signature(kind.forward).parameters
    return taken and (tokenizer is None or TYPE_IDS in tokenizer.model_input_names)


def _refusal(config: "PretrainedConfig", task: type[Task]) -> str:
    """Why a model cannot be trained for a task; nothing where it can."""
    import transformers

    kind = config.model_type
    if config.get_text_config() is not config:
        return f"{kind} models read more than text"
    if config.is_encoder_decoder and not task.encoder_decoder:
        return f"{kind} models have an encoder and a decoder"
    if task.encoder_decoder and not config.is_encoder_decoder:
        return f"{kind} models are no pair of an encoder and a decoder"
    if type(config) not in getattr(transformers, task.auto_class)._model_mapping:  # noqa: SLF001
        return f"transformers has no {_head(task)} of {kind} models"
    masked = type(config) in transformers.AutoModelForMaskedLM._model_mapping  # noqa: SLF001
    masked = masked and not getattr(config, "is_decoder", False)
    if _writes_alone(task) and (masked or getattr(config, "attn_type", "") == "bi"):  # XLNet's
        return (
            f"{kind} models read a text in both directions, and would see the token that they are "
            "to write"
        )
    return ""


def _classes(config: "PretrainedConfig", auto_class: str) -> tuple[type[Any], ...]:
    """The classes of a model that an auto class may make."""
    import transformers

    mapping = getattr(transformers, auto_class)._model_mapping  # noqa: SLF001
    found = mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)


def _writes_alone(task: type[Task]) -> bool:
    """Whether a task wants a language model that sees no token before it writes it."""
    return task.auto_class == "AutoModelForCausalLM"


_HEADS = {
    "AutoModelForSequenceClassification": "classifier",
    "AutoModelForTokenClassification": "classifier of tokens",
    "AutoModelForCausalLM": "language model",
    "AutoModelForSeq2SeqLM": "language model",
    "AutoModelForQuestionAnswering": "model for answers",
    "AutoModel": "model",
}


def _head(task: type[Task]) -> str:
    return _HEADS.get(task.auto_class, task.auto_class)
