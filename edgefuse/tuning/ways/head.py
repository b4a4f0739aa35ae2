"""The head trains alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way, train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Head(Way):
    """The classifier and the pooler under it train."""

    family: ClassVar[str] = "head"
    title: ClassVar[str] = "head"
    summary: ClassVar[str] = "the classifier and the pooler under it"
    learning_rate: ClassVar[float] = 1e-3

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let the head train."""
        from edgefuse.tuning.parts import head_names

        train_only(model, head_names(model))
        return Prepared()
