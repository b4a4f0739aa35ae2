"""What a way of tuning may look at beside the model."""

from dataclasses import replace
from pathlib import Path

import torch
from peft import TaskType
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.tuning.way import Batch, Context
from edgefuse_export.tasks.task import ExportTask


def context_of_shapes(task: ExportTask) -> Context:
    """The context of a model whose numbers do not count, as for a plan: no rows are read."""

    def loss(model: PreTrainedModel, batch: Batch) -> Tensor:
        names = (*task.inputs, *task.targets)
        value: Tensor = task.loss(model)(*(batch[name] for name in names))[0]
        return value

    return Context(loss=loss, task_type=TaskType(task.peft_type))


def context_of_task(task: ExportTask, tokenizer: ModelTokenizer, *, length: int) -> Context:
    """The context of a model that is to be trained.

    Args:
        task: What the model is trained for.
        tokenizer: The model's tokenizer.
        length: Count of tokens that texts are cut to.
    """

    def read(file: Path) -> list[Batch]:
        examples = task.task.read(file, tokenizer.limited(length))
        feeds = (task.task.collate([example], padding_id=0) for example in examples)
        return [{name: torch.from_numpy(value) for name, value in one.items()} for one in feeds]

    return replace(context_of_shapes(task), read=read)
