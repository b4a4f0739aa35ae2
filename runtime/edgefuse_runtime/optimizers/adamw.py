"""AdamW: decoupled weight decay and bias correction."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from edgefuse_runtime.optimizers.optimizer import clipping_scale
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

    states: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    weight_decay: Annotated[
        float, Meta(ge=0, description="Weight decay, which biases and norms do not get.")
    ] = 0.01
    max_gradient_norm: Annotated[
        float, Meta(ge=0, description="Global norm that gradients are clipped at; 0 does not clip.")
    ] = 1.0

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:
        """Clipping, bias correction, schedule and decay as four numbers."""
        correction = math.sqrt((1 - self.beta2) / (1 - self.beta2**step))
        average = (1 - self.beta1) / (1 - self.beta1**step)
        return {
            "gradient_scale": clipping_scale(self.max_gradient_norm, norm),
            "eps": self.eps / correction,
            "step_size": rate * average / correction,
            "shrinkage": self.absent_factor(rate) if decay else 1.0,
        }

    def absent_factor(self, rate: float) -> float:
        """Weight decay alone moves a row without a gradient: its moments stay zero."""
        return 1 - rate * self.weight_decay
