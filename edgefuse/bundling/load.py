"""A text classifier and its tokenizer are loaded, and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgefuse.bundling.classifier import (
    check_architecture,
    load_with_head,
)
from edgefuse.bundling.labels import choose_labels
from edgefuse.bundling.source import Origin
from edgefuse.hub.model import embedding_rows, load_config
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.registry import export_task
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.tasks.text_classification import TextClassification


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


def load(origin: Origin, labels: Sequence[str] | frozenset[str], *, seed: int) -> Loaded:
    """Load a text classifier and its tokenizer.

    Args:
        origin: What to load; a peft adapter stays apart.
        labels: Names of the classes in order, or a set of those that rows have.
        seed: Seed of a classification head that the model lacks.

    Raises:
        ModelError: The model or its tokenizer is broken, or cannot classify such.
    """
    config = load_config(origin.base)
    check_architecture(config, origin.name)
    task = export_task(TextClassification(labels=choose_labels(config, labels, origin.name)))
    tokenizer = load_padding_tokenizer(origin.base)
    padding_id = tokenizer.padding_id
    assert padding_id is not None
    torch.manual_seed(seed)
    model = load_with_head(origin.base, task, padding_id=padding_id)
    _check_token_ids(model, tokenizer, origin.name)
    return Loaded(task, model, tokenizer, padding_id)


def _check_token_ids(model: PreTrainedModel, tokenizer: ModelTokenizer, name: str) -> None:
    """Refuse ids without an embedding: on the board one would end the run, or read another row."""
    rows = embedding_rows(model)
    highest = tokenizer.highest_id
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} has token ids up to {highest}, and the model embeds {rows}",
            "Save it with its own tokenizer, or after `model.resize_token_embeddings(len(…))`",
        )
