"""AdamW: decoupled weight decay and bias correction."""

import math
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


class AdamW(Tagged, frozen=True, kw_only=True, tag="adamw"):
    """Decoupled weight decay and bias correction (Loshchilov & Hutter, arXiv 1711.05101).

    The graph keeps moments without their factors, m / (1 − β1) and v / (1 − β2):
    `edgefuse_export/optimizers/adamw.py`.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Number that is added to the root of the second moment.
        weight_decay: Decay of parameters whose `decay` is true; 0 turns it off.
        max_gradient_norm: Global-norm clipping, each fused row weighed by 1/√n; 0 turns it off.
    """

    follows_gradient: ClassVar[bool] = False
    rate_factor: ClassVar[float] = 1.0

    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    weight_decay: WeightDecay = 0.01
    max_gradient_norm: MaxGradientNorm = 1.0

    def states(self, shape: Sequence[int]) -> dict[str, Shape]:
        """Two moments of every element."""
        return {"first_moment": tuple(shape), "second_moment": tuple(shape)}

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:
        """Clipping, bias correction, schedule and decay as four numbers."""
        correction = math.sqrt((1 - self.beta2) / (1 - self.beta2**step))
        average = (1 - self.beta1) / (1 - self.beta1**step)
        return {
            "gradient_scale": clipping_scale(self.max_gradient_norm, norm),
            "eps": self.eps / correction,
            "step_size": rate * average / correction,
            "shrinkage": 1 - rate * self.weight_decay if decay else 1.0,
        }
