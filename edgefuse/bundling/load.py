"""A model with a task's head and its tokenizer are loaded, and checked against each other."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgefuse.artifact.load import load as load_model
from edgefuse.bundling.source import Origin
from edgefuse.hub.model import embedding_rows, load_config
from edgefuse.hub.source import ModelSource
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse.layers.experts import every_expert_by_name
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ExportTask, WantedTask


@dataclass(frozen=True)
class Loaded:
    """A model that was loaded for a task.

    Attributes:
        task: What it is to be trained for.
        model: The model with the task's head, in the form that graphs are made of.
        tokenizer: The model's tokenizer, which can pad.
        padding_id: Token id that pads.
    """

    task: ExportTask
    model: PreTrainedModel
    tokenizer: ModelTokenizer
    padding_id: int


def load(origin: Origin, wanted: WantedTask, *, seed: int) -> Loaded:
    """Load a model with a task's head, and its tokenizer.

    Args:
        origin: What to load; a peft adapter stays apart.
        wanted: What the model is to be trained for.
        seed: Seed of a head that the model lacks.

    Raises:
        ModelError: The model or its tokenizer is broken, or cannot have the head.
    """
    task = wanted.of_model(load_config(origin.base), origin.name)
    tokenizer = load_padding_tokenizer(origin.base)
    padding_id = tokenizer.padding_id
    assert padding_id is not None
    torch.manual_seed(seed)
    model = load_with_head(origin.base, task, padding_id=padding_id)
    _check_token_ids(model, tokenizer, origin.name)
    return Loaded(task, model, tokenizer, padding_id)


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
    model = load_model(
        source,
        task.model_class(),
        **task.model_options(),
        attn_implementation="eager",
        experts_implementation=every_expert_by_name(),
    )
    set_padding(model, padding_id)
    if model.config.problem_type is not None:  # of a head that it no longer has
        model.config.problem_type = "single_label_classification"
    return model


def set_padding(model: PreTrainedModel, padding_id: int | None) -> None:
    """Set the token id that a model takes for padding to its tokenizer's, in place."""
    if padding_id is not None or model.config.pad_token_id is None:
        model.config.pad_token_id = padding_id or 0


def _check_token_ids(model: PreTrainedModel, tokenizer: ModelTokenizer, name: str) -> None:
    """Refuse ids without an embedding: on the board one would end the run, or read another row."""
    rows = embedding_rows(model)
    highest = tokenizer.highest_id
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} has token ids up to {highest}, and the model embeds {rows}",
            "Save it with its own tokenizer, or after `model.resize_token_embeddings(len(…))`",
        )
