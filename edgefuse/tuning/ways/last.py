"""The layers nearest the head train."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from edgefuse.tuning.parts import head_names, transformer_layers
from edgefuse.tuning.way import Prepared, Way, train_only
from edgefuse_devices.errors import InputError


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

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return f"last-{self.layers}"

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let the top layers and the head train.

        Raises:
            InputError: The model has fewer layers.
        """
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
