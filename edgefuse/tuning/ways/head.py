"""The head trains alone."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from edgefuse.tuning.parts import head_names
from edgefuse.tuning.way import Prepared, Way, train_only


@dataclass(frozen=True)
class Head(Way):
    """The classifier and the pooler under it train."""

    family: ClassVar[str] = "head"
    title: ClassVar[str] = "head"
    summary: ClassVar[str] = "the classifier and the pooler under it"
    learning_rate: ClassVar[float] = 1e-3

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let the head train."""
        train_only(model, head_names(model))
        return Prepared()
