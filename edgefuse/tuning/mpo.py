"""Lightweight fine-tuning of matrix product operators: their central tensors are frozen.

Liu et al., "Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression based on
Matrix Product Operators", ACL 2021, arXiv 2106.02205.
"""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel

from edgefuse.mpo.layers import Chain
from edgefuse.tuning.way import Prepared, train_only
from edgefuse_devices.errors import InputError, ModelError


@dataclass(frozen=True)
class Mpo:
    """Auxiliary tensors train, and what was not decomposed.

    Attributes:
        auxiliary_rate: What the learning rate of auxiliary tensors is multiplied by.
    """

    family: ClassVar[str] = "mpo"
    title: ClassVar[str] = "mpo"
    summary: ClassVar[str] = "all but the central tensors of `compress --method mpo`"
    learning_rate: ClassVar[float] = 5e-4

    auxiliary_rate: float = 1.0

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.title

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Freeze the central tensors.

        Raises:
            InputError: The rate is not above 0.
            ModelError: The model has no chains.
        """
        if not self.auxiliary_rate > 0:
            raise InputError(
                f"--mpo-auxiliary-rate {self.auxiliary_rate:g} is not above 0",
                "Give what to multiply the learning rate by, such as 2",
            )
        chains = [name for name, module in model.named_modules() if isinstance(module, Chain)]
        if not chains:
            raise ModelError(
                "--tune mpo trains the auxiliary tensors of matrix product operators, and this "
                "model has none",
                "Make them first: edgefuse compress MODEL OUTPUT --method mpo --max-error 0",
            )
        central = {f"{name}.central" for name in chains}
        train_only(model, [name for name, _ in model.named_parameters() if name not in central])
        auxiliary = [
            f"{name}.auxiliary.{index}"
            for name in chains
            for index, _ in enumerate(model.get_submodule(name).auxiliary)  # type: ignore[arg-type]
        ]
        return Prepared(rates=dict.fromkeys(auxiliary, self.auxiliary_rate))
