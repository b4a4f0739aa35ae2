"""What a way of tuning may look at beside a text classifier."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import TaskType
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.tuning.way import Batch, Context
from edgefuse_export.module import INPUTS, Loss
from edgefuse_runtime.data.dataset import read_examples


def context_of_shapes() -> Context:
    """The context of a model whose numbers do not count, as for a plan: no rows are read."""
    return Context(loss=_loss, task_type=TaskType.SEQ_CLS)


def context_of_task(tokenizer: ModelTokenizer, labels: Sequence[str], *, length: int) -> Context:
    """The context of a model that is to be trained.

    Args:
        tokenizer: The model's.
        labels: Names of the classes, in the order of the logits.
        length: Count of tokens that texts are cut to.
    """

    def read(file: Path) -> list[Batch]:
        examples = read_examples(file, labels)
        rows = tokenizer.encode([example.text for example in examples], length=length)
        return [
            {
                "input_ids": torch.tensor(row, dtype=torch.int64)[None],
                "attention_mask": torch.ones((1, len(row)), dtype=torch.int64),
                "labels": torch.tensor([example.label]),
            }
            for row, example in zip(rows, examples, strict=True)
        ]

    return Context(loss=_loss, task_type=TaskType.SEQ_CLS, read=read)


def _loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    loss: Tensor = Loss(model)(*(batch[name] for name in (*INPUTS, "labels")))[0]
    return loss
