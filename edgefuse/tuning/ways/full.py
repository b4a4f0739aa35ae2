"""Everything trains, or everything but the embedding tables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way, train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Full(Way):
    """Every parameter trains."""

    family: ClassVar[str] = "full"
    title: ClassVar[str] = "full"
    summary: ClassVar[str] = "every parameter"
    learning_rate: ClassVar[float] = 5e-5

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let everything train."""
        model.requires_grad_()
        return Prepared()


@dataclass(frozen=True)
class FullWithoutEmbeddings(Way):
    """Every parameter but the embedding tables trains."""

    family: ClassVar[str] = "full-without-embeddings"
    title: ClassVar[str] = "full-without-embeddings"
    summary: ClassVar[str] = "every parameter but the embedding tables"
    learning_rate: ClassVar[float] = 5e-5

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let everything but the embedding tables train."""
        from edgefuse.tuning.parts import is_embedding

        names = [name for name, _ in model.named_parameters() if not is_embedding(model, name)]
        train_only(model, names)
        return Prepared()
