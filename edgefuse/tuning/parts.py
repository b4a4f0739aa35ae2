"""Which part of a model a parameter belongs to."""

from torch import nn
from transformers import PreTrainedModel


def is_embedding(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter is an embedding table."""
    module, _, _ = name.rpartition(".")
    return isinstance(model.get_submodule(module), nn.Embedding)


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter belongs to the classifier or to the pooler under it."""
    encoder = f"{model.base_model_prefix}."
    # A pooler belongs to the encoder's class but is read by nothing else than the head.
    return not name.startswith(encoder) or ".pooler." in name


def head_names(model: PreTrainedModel) -> list[str]:
    """Parameters of the head."""
    return [name for name, _ in model.named_parameters() if is_head(model, name)]
