"""How the narrow MLPs of a model are taught, which depends on what the model is for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class DistillationSettings:
    """How MLPs are taught: each alone, and then all together.

    Attributes:
        alone: How often each MLP goes through its inputs alone.
        epochs: How often all together go through the text.
        tokens: Count of tokens of that text that are read.
        rate: Learning rate of Adam when all are taught, in root mean squares of a tensor.
        own: Weight of each MLP's own error against that of the hidden states.
        next: Weight of the next token's divergence, in nats.
    """

    alone: int
    epochs: int
    tokens: int
    rate: float
    own: float = 0.0
    next: float = 0.0


ENCODERS = DistillationSettings(alone=10, epochs=2, tokens=1 << 16, rate=0.02, own=1.0)

LANGUAGE_MODELS = DistillationSettings(alone=3, epochs=3, tokens=1 << 17, rate=0.003, next=1.0)
"""Deeper models, where a rate of 0.01 undoes more than it teaches."""


def settings_of(model: "PreTrainedModel") -> DistillationSettings:
    """How the MLPs of a model that writes, or one that reads, are taught."""
    return LANGUAGE_MODELS if model.can_generate() else ENCODERS
