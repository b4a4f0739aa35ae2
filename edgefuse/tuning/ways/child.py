"""Child-Tuning: a part of the layers' weights trains at a time.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable
Fine-tuning", EMNLP 2021, arXiv 2109.05687. As in the authors' code, gradients are masked after
clipping, and embeddings and head train whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from transformers import PreTrainedModel

from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.tuning.fisher import Row, diagonal_fisher
from edgefuse.tuning.parts import transformer_layers
from edgefuse.tuning.way import Prepared, Way, train_only
from edgefuse_devices.errors import InputError
from edgefuse_runtime.bundle.manifest import FixedMask, RandomMask
from edgefuse_runtime.data.dataset import read_examples


@dataclass(frozen=True)
class ChildF(Way):
    """Everything trains, but of the layers' gradients a random part at every step.

    Attributes:
        keep: Probability q that an entry is kept; what is kept is divided by it.
    """

    family: ClassVar[str] = "child"
    title: ClassVar[str] = "child-f"
    summary: ClassVar[str] = "all, but a random part of the layers' weights at every step"
    learning_rate: ClassVar[float] = 5e-5

    keep: float = 0.3

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let everything train.

        Raises:
            InputError: The probability is none.
        """
        _check_keep(self.keep)
        train_only(model, [name for name, _ in model.named_parameters()])
        return Prepared(mask=RandomMask(parameters=_layer_names(model), keep=self.keep))


@dataclass(frozen=True)
class ChildD(Way):
    """Embeddings, head and the weights of the layers that matter most to the task train.

    Attributes:
        keep: The share of the layers' weights that trains.
        data: Labelled rows of the task.
        rows: The same, tokenized: what `reading` gives.
    """

    family: ClassVar[str] = "child"
    title: ClassVar[str] = "child-d"
    summary: ClassVar[str] = "embeddings, head, and what of the layers the task depends on most"
    learning_rate: ClassVar[float] = 5e-5

    keep: float = 0.3
    data: Path | None = None
    rows: Sequence[Row] = field(default=(), metadata={"option": False})

    def reading(self, tokenizer: ModelTokenizer, labels: Sequence[str], *, length: int) -> Self:
        """The same with the rows of its file.

        Args:
            tokenizer: The model's.
            labels: Of the classes, in the order of the logits.
            length: Longest row in tokens.

        Raises:
            InputError: There is no file, or it cannot be used.
        """
        if self.data is None:
            raise InputError(
                "--tune child-d measures on the task which weights matter, and has no rows of it",
                "Name labelled rows with --child-data train.jsonl",
            )
        examples = read_examples(self.data, labels)
        encoded = tokenizer.encode([example.text for example in examples], length=length)
        rows = zip(encoded, examples, strict=True)
        return replace(self, rows=[Row(ids.tolist(), example.label) for ids, example in rows])

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let everything train, and choose what of the layers' weights moves.

        Raises:
            InputError: The share is none.
        """
        _check_keep(self.keep)
        names = _layer_names(model)
        train_only(model, [name for name, _ in model.named_parameters()])
        kept = _largest(diagonal_fisher(model, names, self.rows), self.keep) if self.rows else {}
        return Prepared(mask=FixedMask(parameters=names), kept=kept)


def _check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise InputError(f"--child-keep {keep} is no share of the weights", "Give 0.3, say")


def _layer_names(model: PreTrainedModel) -> list[str]:
    inside = {id(p) for layer in transformer_layers(model) for p in layer.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


def _largest(fisher: Mapping[str, torch.Tensor], share: float) -> dict[str, np.ndarray]:
    """Which entries are among that share of all, by name."""
    values = torch.cat([tensor.flatten() for tensor in fisher.values()])
    count = max(1, round(share * len(values)))
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[values.topk(count).indices] = True
    ends = np.cumsum([tensor.numel() for tensor in fisher.values()])
    parts = np.split(kept.numpy(), ends[:-1])
    return {
        name: part.reshape(tensor.shape)
        for (name, tensor), part in zip(fisher.items(), parts, strict=True)
    }
