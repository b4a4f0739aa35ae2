"""BitFit: biases train.

Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for
Transformer-based Masked Language-models", ACL 2022, arXiv 2106.10199.
"""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from edgefuse.tuning.parts import head_names
from edgefuse.tuning.way import INSTEAD, Prepared, Way, train_only
from edgefuse_devices.errors import ModelError


@dataclass(frozen=True)
class BitFit(Way):
    """Biases train, those of norms too, and the head."""

    family: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "biases, and the head"
    learning_rate: ClassVar[float] = 1e-3

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Let biases and the head train.

        Raises:
            ModelError: No layer under the head has a bias.
        """
        head = head_names(model)
        names = [name for name, _ in model.named_parameters()]
        biases = [name for name in names if name.endswith("bias") and name not in head]
        if not biases:
            raise ModelError(
                f"{type(model).__name__} has no biases under its head, and --tune bitfit trains "
                "biases",
                INSTEAD,
            )
        train_only(model, [*biases, *head])
        return Prepared()
