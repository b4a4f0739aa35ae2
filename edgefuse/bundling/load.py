"""A model with a task's head and its tokenizer are loaded, and checked against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from edgefuse.artifact.load import load as load_model
from edgefuse.bundling.source import Origin
from edgefuse.hub.model import embedding_rows, load_config
from edgefuse.hub.source import ModelSource, find_file
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.layers.switch_experts import compute_every_expert
from edgefuse.layers.tied import hold_once
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.tasks.task import Task


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
    config = load_config(origin.base)
    tokenizer = load_padding_tokenizer(origin.base, split_words=wanted.splits_words)
    task = wanted.of_model(facts_of(origin.base, config, origin.name, tokenizer))
    padding_id = tokenizer.padding_id
    assert padding_id is not None
    torch.manual_seed(seed)
    model = load_with_head(origin.base, task, padding_id=padding_id)
    _check_token_ids(model, tokenizer, origin.name)
    return Loaded(task, model, tokenizer, padding_id)


def load_with_head(
    source: ModelSource, task: ExportTask, *, padding_id: int | None
) -> PreTrainedModel:
    """Load a model with a task's head, which is new where the model brings none and may.

    Args:
        source: A plain model, or a compressed one, which gets its P standalone.
        task: What the model is trained for.
        padding_id: Token id that pads: a decoder looks for the last token before it. None where
            nothing will be computed.

    Returns:
        The model, float32, in evaluation mode, in the form that graphs are made of: with eager
        attention, with every expert of a layer computed, and with shared weights held once.

    Raises:
        ModelError: The model is broken, or cannot have the head.
    """
    model = load_model(
        source,
        auto_class(task.task),
        **task.model_options(),
        needs_head=task.needs_head,
        attn_implementation="eager",
        experts_implementation=every_expert_by_name(),
    )
    set_padding(model, padding_id)
    compute_every_expert(model)
    hold_once(model)
    return model


def auto_class(task: Task) -> type[Any]:
    """The class of transformers that loads a model with a task's head."""
    kind: type[Any] = getattr(transformers, task.auto_class)
    return kind


def facts_of(
    source: ModelSource,
    config: PretrainedConfig,
    name: str,
    tokenizer: ModelTokenizer | None = None,
) -> ModelFacts:
    """What a task may look at of a model before its weights are read.

    Args:
        source: The model.
        config: The configuration of the model.
        name: The name that the user gave, for messages.
        tokenizer: The tokenizer of the model; None where only sizes count.
    """

    def file(wanted: str) -> Path | None:
        found = find_file(source, wanted)
        return Path(found) if found else None

    return ModelFacts(name, config, tokenizer.wrapper if tokenizer else None, file)


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
