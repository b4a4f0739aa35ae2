"""The layers nearest the head train."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way, train_only
from edgefuse_devices.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Last(Way):
    """The N top layers and the head train; backward stops below them.

    Attributes:
        layers: N.
    """

    family: ClassVar[str] = "last"
    title: ClassVar[str] = "last-N"
    summary: ClassVar[str] = "the N top layers, and the head"
    learning_rate: ClassVar[float] = 5e-5

    layers: int = 1

    @classmethod
    def options_in(cls, name: str) -> Mapping[str, object] | None:
        """Find N in a name such as last-2; None where it names another way.

        Raises:
            InputError: The name is last-N itself.
        """
        if name == cls.title:
            raise InputError(f"--tune {name} says no number of layers", "Give one: last-2, say")
        number = re.fullmatch(r"last-(\d+)", name)
        return number and {"layers": int(number[1])}

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return f"last-{self.layers}"

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let the top layers and the head train.

        Raises:
            InputError: The model has fewer layers.
        """
        from edgefuse.tuning.parts import head_names, transformer_layers

        layers = transformer_layers(model)
        if not 1 <= self.layers <= len(layers):
            raise InputError(
                f"--tune {self.name} wants {self.layers} layers, and the model has "
                f"{len(layers)} with weights of their own",
                ("Give last-1" if len(layers) == 1 else f"Give one of last-1 to last-{len(layers)}")
                + ", or train all with --tune full-without-embeddings",
            )
        top = {id(p) for layer in layers[-self.layers :] for p in layer.parameters()}
        names = [name for name, p in model.named_parameters() if id(p) in top]
        train_only(model, [*names, *head_names(model)])
        return Prepared()
