"""BitFit: biases train.

Ben Zaken, Goldberg, Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for
Transformer-based Masked Language-models", ACL 2022, arXiv 2106.10199.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import INSTEAD, Context, Prepared, Way, train_only
from edgefuse_devices.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BitFit(Way):
    """All biases train, those of norms too, and the head."""

    family: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "biases, and the head"
    learning_rate: ClassVar[float] = 1e-3

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let biases and the head train.

        Raises:
            ModelError: No layer under the head has a bias.
        """
        from edgefuse.tuning.parts import head_names

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
