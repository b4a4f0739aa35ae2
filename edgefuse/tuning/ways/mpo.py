"""Lightweight fine-tuning of matrix product operators: their central tensors are frozen.

Liu et al., "Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression based on
Matrix Product Operators", ACL 2021, arXiv 2106.02205. A central tensor that experts share collects
every expert's gradient: there it can train with most of its gradient masked (Gao et al.,
"Parameter-Efficient Mixture-of-Experts Architecture for Pre-trained Language Models", COLING 2022,
arXiv 2203.01104).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way, train_only
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Mpo(Way):
    """Auxiliary tensors train, and what was not decomposed.

    Attributes:
        central_keep: Probability that an entry of a central tensor's gradient counts in a step;
            what counts is divided by it. 0 freezes them.
        auxiliary_rate: Factor of the learning rate of auxiliary tensors.
    """

    family: ClassVar[str] = "mpo"
    title: ClassVar[str] = "mpo"
    summary: ClassVar[str] = "all but the central tensors of `compress --method mpo`"
    learning_rate: ClassVar[float] = 5e-5

    central_keep: float = option(
        0.0,
        help="Part of the gradients of mpo's central tensors that counts in a step, drawn anew; 0 "
        "freezes them.",
        shown="0",
    )
    auxiliary_rate: float = option(
        1.0, help="Learning rate of mpo's auxiliary tensors, times the others'.", shown="1"
    )

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Freeze the central tensors, or mask their gradients.

        Raises:
            InputError: The rate is not above 0, or the probability is none.
            ModelError: The model has no chains.
        """
        from edgefuse.layers.chains.modules import chains_of
        from edgefuse_runtime.graph.masks import RandomMask

        if not 0 < self.auxiliary_rate < math.inf:
            raise InputError(
                f"--mpo-auxiliary-rate {self.auxiliary_rate:g} is no rate to multiply by",
                "Give what to multiply the learning rate by, such as 2",
            )
        if not 0 <= self.central_keep <= 1:
            raise InputError(
                f"--mpo-central-keep {self.central_keep:g} is outside 0 to 1",
                "Give the part of their gradients that counts in a step, such as 0.2",
            )
        chains = chains_of(model)
        if not chains:
            raise ModelError(
                "--tune mpo trains the auxiliary tensors of matrix product operators, and this "
                "model has none",
                "Make them first: edgefuse compress MODEL OUTPUT --method mpo --max-error 0",
            )
        parameters = [name for name, _ in model.named_parameters()]  # a shared one once
        central = [name for name in parameters if name.removesuffix(".central") in chains]
        mask = None
        if self.central_keep:
            model.requires_grad_()
            mask = RandomMask(parameters=central, keep=self.central_keep)
        else:
            train_only(model, [name for name in parameters if name not in central])
        auxiliary = [
            f"{name}.auxiliary.{index}"
            for name, chain in chains.items()
            for index in range(len(chain.auxiliary))
        ]
        return Prepared(rates=dict.fromkeys(auxiliary, self.auxiliary_rate), mask=mask)
