"""What a way of tuning is: its options, what it may look at, and what it makes of a model.

`edgefuse export --help` reads it: torch and the like are imported for types alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftConfig, TaskType
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from edgefuse_runtime.graph.masks import GradientMask
    from edgefuse_runtime.graph.merges import Merge

INSTEAD = "Choose another way: `edgefuse plan` lists those that the model can take"
"""What to do where a model cannot be tuned one way: no other one is sure to do."""

Batch: TypeAlias = "Mapping[str, Tensor]"
"""Labelled rows of a task as tensors, by the names of the training graph's inputs."""


@dataclass(frozen=True)
class Context:
    """What a way may look at beside the model.

    Attributes:
        loss: Loss of the task on a batch, a scalar.
        task_type: peft's name of the task.
        read: Reader of a file of labelled rows: a batch for each row. None where nothing but
            shapes is looked at, as for a plan.
        peft_adapter: Directory of a peft adapter to go on from; None to begin anew.
    """

    loss: "Callable[[PreTrainedModel, Batch], Tensor]"
    task_type: "TaskType"
    read: Callable[[Path], Sequence[Batch]] | None = None
    peft_adapter: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """What a way made of a model, beside choosing what trains.

    Attributes:
        inference: The model as it infers, where that is not the one that trains: with the weights
            that `merges` make, and without the tensors that they are made of. It shares all other
            tensors.
        merges: How those weights are made.
        rates: Factors of the learning rate, by the names of the parameters where that is not 1.
        mask: The part of the gradients that counts; None for all of them.
        kept: Entries that a fixed mask keeps, as truth values by the parameters' names.
        positions: Count of positions that stand before the text, and that it loses.
        peft: The configuration under which peft loads what trains; None where it cannot.
        not_plain: What keeps plain transformers from loading the trained model, as the end of a
            sentence; empty for nothing.
    """

    inference: "PreTrainedModel | None" = None
    merges: "Sequence[Merge]" = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    mask: "GradientMask | None" = None
    kept: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    positions: int = 0
    peft: "PeftConfig | None" = None
    not_plain: str = ""

    def without(self, names: Collection[str]) -> Self:
        """The same of a model in which the parameters of these names no longer train."""
        mask = self.mask
        if mask is not None:
            left = [name for name in mask.parameters if name not in names]
            mask = msgspec.structs.replace(mask, parameters=left) if left else None
        return replace(
            self,
            rates={name: rate for name, rate in self.rates.items() if name not in names},
            mask=mask,
            kept={name: entries for name, entries in self.kept.items() if name not in names},
        )


class Way(ABC):
    """A choice of `--tune`. Its options are the fields of a frozen dataclass.

    Attributes:
        family: What the flags of its options begin with: `rank` of `lora` is `--lora-rank`.
        title: What `--tune` calls it in the help; N stands for a number.
        summary: What trains, for the help.
        learning_rate: Peak of the learning rate, unless the user names one.
        goes_on_from: peft's name of the kind of adapter that the way can go on training; None for
            no kind.
    """

    family: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float]
    goes_on_from: ClassVar[str | None] = None

    @classmethod
    def options_in(cls, name: str) -> Mapping[str, object] | None:
        """Find the options that a name holds, as last-2 does; None where it names another way.

        Raises:
            InputError: The name lacks an option.
        """
        return {} if name == cls.title else None

    @property
    def name(self) -> str:
        """What `--tune` and the manifest call it."""
        return self.title

    @abstractmethod
    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:
        """Add what the way adds, and set every parameter's `requires_grad`, in place.

        Parameters that the plain model has keep their names.

        Args:
            model: A model of the task, in evaluation mode.
            context: What there is beside it.

        Raises:
            ModelError: The model cannot be tuned this way.
            InputError: An option does not fit the model, or needs what the context lacks.
        """


def train_only(model: "nn.Module", names: Sequence[str]) -> None:
    """Set `requires_grad` of every parameter: true for the ones named, false for all others."""
    trained = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
