"""What a way of tuning is: options, and what it makes of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel

from edgefuse_runtime.bundle.manifest import FixedMask, Merge, RandomMask

INSTEAD = "Choose another way: `edgefuse plan` lists those that the model can take"
"""What to do where a model cannot be tuned one way: no other one is sure to do."""


@dataclass(frozen=True)
class Prepared:
    """What a way made of a model beside choosing what trains.

    Attributes:
        inference: The model as it will infer, where that is not the one that trains: with the
            weights that `merges` make, and without the tensors that they are made of. It shares
            all other tensors.
        merges: How those weights are made.
        rates: What parameters' learning rate is multiplied by, where that is not 1.
        mask: What part of the gradients counts.
        kept: Which entries those are, where that is chosen: truth values by parameter.
        positions: How many positions the text loses to what stands before it.
        peft: The configuration under which peft loads what trains, where it can.
    """

    inference: PreTrainedModel | None = None
    merges: Sequence[Merge] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    mask: RandomMask | FixedMask | None = None
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    positions: int = 0
    peft: PeftConfig | None = None


class Way(ABC):
    """A choice of `--tune` with its options, which are the fields of a frozen dataclass.

    Attributes:
        family: What its options begin with on the command line: `rank` of `lora` is `--lora-rank`.
        title: What `--tune` calls it, for the help; N stands for a number.
        summary: What trains, for the help.
        learning_rate: The peak that training has unless it is told another.
    """

    family: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float]

    @property
    def name(self) -> str:
        """What `--tune` and the manifest call it."""
        return self.title

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Add what the way adds, and set every parameter's `requires_grad`, in place.

        Parameters that the plain model has keep their names.

        Raises:
            ModelError: The model cannot be tuned this way.
            InputError: An option does not fit the model.
        """


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Set `requires_grad` of every parameter: of these true, of all others false."""
    trained = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
