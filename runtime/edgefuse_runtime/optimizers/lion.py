"""Lion: the sign of a momentum."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from edgefuse_runtime.optimizers.optimizer import (
    MaxGradientNorm,
    Shape,
    WeightDecay,
    clipping_scale,
)
from edgefuse_runtime.tagged import Tagged


class Lion(Tagged, frozen=True, kw_only=True, tag="lion"):
    """The sign of a momentum, and decoupled weight decay (Chen et al., arXiv 2302.06675).

    Every element moves by the learning rate, so that this is lower than AdamW's, and the weight
    decay, which is multiplied by it, higher (section 5 of the paper).

    Attributes:
        beta1: Weight of the momentum in what the sign is taken of.
        beta2: Decay of the momentum.
        weight_decay: Decay of parameters whose `decay` is true; 0 turns it off.
        max_gradient_norm: Global-norm clipping, each fused row weighed by 1/√n; 0 turns it off.
    """

    follows_gradient: ClassVar[bool] = False
    rate_factor: ClassVar[float] = 1 / 3

    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    weight_decay: WeightDecay = 0.03
    max_gradient_norm: MaxGradientNorm = 1.0

    def states(self, shape: Sequence[int]) -> dict[str, Shape]:
        """The momentum of every element."""
        return {"momentum": tuple(shape)}

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:  # noqa: ARG002 - all steps are alike
        """Clipping, schedule and decay."""
        return {
            "gradient_scale": clipping_scale(self.max_gradient_norm, norm),
            "step_size": rate,
            "shrinkage": 1 - rate * self.weight_decay if decay else 1.0,
        }
