"""The ways that train some of a model's own parameters and leave the others frozen."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from edgefuse_devices.errors import InputError


@dataclass(frozen=True)
class Way:
    """A choice of `--tune`.

    Attributes:
        name: What `--tune` calls it.
        summary: What trains, for the help.
        trains: Whether a parameter of a model trains, by the model and the parameter's name.
    """

    name: str
    summary: str
    trains: Callable[[PreTrainedModel, str], bool]


def _is_embedding(model: PreTrainedModel, name: str) -> bool:
    module, _, _ = name.rpartition(".")
    return isinstance(model.get_submodule(module), nn.Embedding)


def _is_head(model: PreTrainedModel, name: str) -> bool:
    encoder = f"{model.base_model_prefix}."
    # A pooler belongs to the encoder's class but is read by nothing else than the head.
    return not name.startswith(encoder) or ".pooler." in name


WAYS = (
    Way("full", "every parameter", lambda _model, _name: True),
    Way(
        "full-without-embeddings",
        "every parameter but the embedding tables",
        lambda model, name: not _is_embedding(model, name),
    ),
    Way("head", "the classifier and the pooler under it", _is_head),
)


def find_way(name: str) -> Way:
    """The way of tuning of that name.

    Raises:
        InputError: There is none.
    """
    for way in WAYS:
        if way.name == name:
            return way
    raise InputError(
        f"There is no way of tuning called {name!r}",
        f"Use one of {', '.join(way.name for way in WAYS)}",
    )


def apply_way(model: PreTrainedModel, way: Way) -> None:
    """Set `requires_grad` of every parameter as a way of tuning wants it, in place."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(way.trains(model, name))
