"""Everything trains, or everything but the embedding tables."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from edgefuse.tuning.parts import is_embedding
from edgefuse.tuning.way import Prepared, Way, train_only


@dataclass(frozen=True)
class Full(Way):
    """Every parameter trains."""

    family: ClassVar[str] = "full"
    title: ClassVar[str] = "full"
    summary: ClassVar[str] = "every parameter"
    learning_rate: ClassVar[float] = 5e-5

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let everything train."""
        train_only(model, [name for name, _ in model.named_parameters()])
        return Prepared()


@dataclass(frozen=True)
class FullWithoutEmbeddings(Way):
    """Every parameter but the embedding tables trains."""

    family: ClassVar[str] = "full-without-embeddings"
    title: ClassVar[str] = "full-without-embeddings"
    summary: ClassVar[str] = "every parameter but the embedding tables"
    learning_rate: ClassVar[float] = 5e-5

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let everything but the embedding tables train."""
        names = [name for name, _ in model.named_parameters() if not is_embedding(model, name)]
        train_only(model, names)
        return Prepared()
