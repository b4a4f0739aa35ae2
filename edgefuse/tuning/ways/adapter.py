"""Adapters: small blocks after attention and after the MLP, in front of the residual sums.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way, train_only
from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Adapter(Way):
    """Adapters train, and the norms of the layers, and the head.

    Attributes:
        size: Width of the bottleneck.
    """

    family: ClassVar[str] = "adapter"
    title: ClassVar[str] = "adapter"
    summary: ClassVar[str] = "small blocks after attention and MLP, norms, and the head"
    learning_rate: ClassVar[float] = 1e-3

    size: int = option(64, help="Width of the bottlenecks of adapter.")

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Put adapters behind the projections that end attention and MLP.

        Raises:
            InputError: The size is none.
            ModelError: It is not known where the model's attention ends.
        """
        from edgefuse.tuning.bottleneck import add_bottlenecks
        from edgefuse.tuning.parts import head_names, norm_names

        if self.size < 1:
            raise InputError(f"--adapter-size {self.size} leaves nothing to train", "Give 64")
        added = add_bottlenecks(model, self.size)
        train_only(model, [*added, *norm_names(model), *head_names(model)])
        return Prepared(not_plain="has no adapters, and this model does")
