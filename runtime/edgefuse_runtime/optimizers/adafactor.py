"""Adafactor: the second moment of a matrix by its rows and columns."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from edgefuse_runtime.optimizers.optimizer import (
    MaxGradientNorm,
    Shape,
    WeightDecay,
    clipping_scale,
    matrices,
)
from edgefuse_runtime.tagged import Tagged


class Adafactor(Tagged, frozen=True, kw_only=True, tag="adafactor"):
    """Adafactor (Shazeer & Stern, arXiv 1804.04235) as torch.optim.Adafactor does it.

    The learning rate is relative: it multiplies the root mean square of a parameter, and is at most
    1/√t in step t. There is no first moment.

    Attributes:
        beta2_decay: Exponent c of the second moment's decay 1 − tᶜ.
        eps1: Least root of the second moment.
        eps2: Least root mean square of a parameter, for the size of its step.
        clipping_threshold: Root mean square that a parameter's update is clipped at.
        weight_decay: Decoupled decay of parameters whose `decay` is true; 0 turns it off.
        max_gradient_norm: Global-norm clipping, each fused row weighed by 1/√n; 0 turns it off.
    """

    follows_gradient: ClassVar[bool] = False
    rate_factor: ClassVar[float] = 20.0

    beta2_decay: Annotated[float, Meta(le=0)] = -0.8
    eps1: Annotated[float, Meta(gt=0)] = 2.0**-23
    eps2: Annotated[float, Meta(gt=0)] = 1e-3
    clipping_threshold: Annotated[float, Meta(ge=1)] = 1.0
    weight_decay: WeightDecay = 0.0
    max_gradient_norm: MaxGradientNorm = 0.0

    def states(self, shape: Sequence[int]) -> dict[str, Shape]:
        """A second moment for each row and one for each column."""
        stack, rows, columns = matrices(shape)
        return {"row_moment": (stack, rows, 1), "column_moment": (stack, 1, columns)}

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:
        """Clipping, share of the new second moment, relative step and decay."""
        return {
            "gradient_scale": clipping_scale(self.max_gradient_norm, norm),
            "fresh": step**self.beta2_decay,
            "relative_step": min(rate, 1 / math.sqrt(step)),
            "shrinkage": 1 - rate * self.weight_decay if decay else 1.0,
        }
