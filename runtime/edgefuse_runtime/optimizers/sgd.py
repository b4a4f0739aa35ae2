"""Stochastic gradient descent, with momentum."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from edgefuse_devices.errors import InputError
from edgefuse_runtime.optimizers.optimizer import (
    MaxGradientNorm,
    Shape,
    WeightDecay,
    clipping_scale,
)
from edgefuse_runtime.tagged import Tagged


class Sgd(Tagged, frozen=True, kw_only=True, tag="sgd"):
    """Gradient descent as torch.optim.SGD does it, without dampening.

    Weight decay is added to the gradient after clipping, and so is in the momentum too.

    Attributes:
        momentum: Decay of the sum of the gradients; 0 keeps no sum.
        nesterov: Whether a step looks ahead by the momentum (Sutskever et al., ICML 2013).
        weight_decay: Decay of parameters whose `decay` is true; 0 turns it off.
        max_gradient_norm: Global-norm clipping, each fused row weighed by 1/√n; 0 turns it off.

    Raises:
        InputError: Nesterov's step is wanted and there is no momentum.
    """

    follows_gradient: ClassVar[bool] = True
    rate_factor: ClassVar[float] = 200.0

    momentum: Annotated[
        float, Meta(ge=0, lt=1, description="Momentum of sgd; 0 keeps none, and no memory for it.")
    ] = 0.9
    nesterov: Annotated[bool, Meta(description="Nesterov's momentum, of sgd.")] = False
    weight_decay: WeightDecay = 0.0
    max_gradient_norm: MaxGradientNorm = 1.0

    def __post_init__(self) -> None:
        """Check that there is momentum to look ahead by."""
        if self.nesterov and not self.momentum:
            raise InputError(
                "Nesterov's momentum needs momentum, and it is 0", "Give --momentum 0.9, say"
            )

    def states(self, shape: Sequence[int]) -> dict[str, Shape]:
        """The momentum of every element, if there is any."""
        return {"momentum": tuple(shape)} if self.momentum else {}

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:  # noqa: ARG002 - all steps are alike
        """Clipping, schedule and decay."""
        return {
            "gradient_scale": clipping_scale(self.max_gradient_norm, norm),
            "step_size": rate,
            "weight_decay": self.weight_decay if decay else 0.0,
        }
