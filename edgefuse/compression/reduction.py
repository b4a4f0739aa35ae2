"""What makes an MLP smaller, as the stages around it see it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgefuse_devices.errors import InputError

if TYPE_CHECKING:
    from edgefuse.compression.plan import LayerPlan
    from edgefuse.mlps.low_rank import Replacement
    from edgefuse.mlps.mlp import MLP
    from edgefuse.mlps.neurons import Layer


class Reduction(Protocol):
    """A way to make an MLP smaller."""

    @property
    def name(self) -> str:
        """Name of the method."""
        ...

    @property
    def paper(self) -> str:
        """Where it comes from."""
        ...

    @property
    def needs_text(self) -> bool:
        """Whether it has nothing to go by without text."""
        ...

    @property
    def refits(self) -> bool:
        """Whether what it gives is refitted to text without being asked."""
        ...

    @property
    def matches(self) -> bool:
        """Whether P is matched to the kernel in the end, with text."""
        ...

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Make what takes the place of an MLP, k neurons wide or with as many parameters."""
        ...

    def misfit(self, mlp: "MLP", width: int) -> str | None:
        """Why it does not suit an MLP and a width, as half a sentence; None where it does."""
        ...

    def outcome(self, mlp: "MLP", plan: "LayerPlan") -> "LayerPlan":
        """What the plan of an MLP at a width comes to, where that is not as wide."""
        ...


def check_fit(method: Reduction, mlps: "Sequence[MLP]", widths: Sequence[int]) -> None:
    """Refuse MLPs that a method does not suit at the widths that they are to have.

    Raises:
        InputError: It does not suit one; the message names the reason.
    """
    for mlp, width in zip(mlps, widths, strict=True):
        reason = method.misfit(mlp, width)
        if reason is not None:
            raise InputError(
                f"The method {method.name} does not suit {mlp.name}: {reason}",
                "Choose another --method",
            )
