"""The head trains alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import INSTEAD, Context, Prepared, Way, train_only
from edgefuse_devices.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Head(Way):
    """The head and the pooler under it train."""

    family: ClassVar[str] = "head"
    title: ClassVar[str] = "head"
    summary: ClassVar[str] = "the head and the pooler under it"
    learning_rate: ClassVar[float] = 1e-3

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let the head train.

        Raises:
            ModelError: The model has none, as a language model, which scores tokens with the other
                end of its embeddings.
        """
        from edgefuse.tuning.parts import head_names

        names = head_names(model)
        if not names:
            raise ModelError(
                f"{type(model).__name__} has no head of its own, and --tune head trains the head",
                INSTEAD,
            )
        train_only(model, names)
        return Prepared()
