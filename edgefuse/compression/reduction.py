"""A method that makes an MLP smaller, as the stages around it see it.

`edgefuse compress --help` reads its options: nothing here imports torch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgefuse.compression.method import Method
from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from edgefuse.compression.plan import LayerPlan
    from edgefuse.mlps.low_rank import Replacement
    from edgefuse.mlps.mlp import MLP
    from edgefuse.mlps.neurons import Layer


@dataclass(frozen=True)
class Reduction(Method):
    """A method that makes MLPs smaller: what takes the place of one, and the options of all.

    Attributes:
        ratio: Part of each MLP's width to keep; without `ratio` and `width` a quarter.
        width: Width of each MLP to keep, instead of `ratio`.
        layers: Layers to fuse, such as `4-11` or `0,2,5-7`; None for all.
        calibration: File of text for the method and the refit; errors are measured on every tenth
            text, which they do not see.
        refit: Whether each output is fitted to the original's; None for as the method does.
        tune_text: File of text for the teaching stages; it stands in for `calibration` too.
        allocation: How widths are shared out among the MLPs: `even` or `sensitivity`.
    """

    measures: ClassVar[bool] = True
    needs_text: ClassVar[bool] = False
    refits: ClassVar[bool] = False
    matches: ClassVar[bool] = False

    ratio: float | None = option(None, help="Part of each MLP's width to keep.", shown="0.25")
    width: int | None = option(
        None, help="Width of each MLP to keep, instead of --ratio.", shown=""
    )
    layers: str | None = option(None, help="Layers to fuse, from 0: 4-11 or 0,2,5-7.", shown="all")
    calibration: Path | None = option(
        None,
        help="Text to fit the narrow MLPs to: rows of a task, or .txt. A tenth is held out to "
        "measure errors on.",
        shown="",
    )
    refit: bool | None = option(
        None, help="Fit each MLP's output to the original's on the text.", shown="as the method"
    )
    tune_text: Path | None = option(
        None, help="Text to teach the narrow MLPs on; needs no labels.", shown=""
    )
    allocation: str = option(
        "even",
        help="Width of each MLP: even, or by sensitivity, other widths that make as many "
        "parameters in all; needs text.",
    )

    @abstractmethod
    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Make what takes the place of an MLP, k neurons wide or with as many parameters."""

    def misfit(self, mlp: "MLP", width: int) -> str | None:  # noqa: ARG002 - most suit all
        """Why it does not suit an MLP and a width, as half a sentence; None where it does."""
        return None

    def outcome(self, mlp: "MLP", plan: "LayerPlan") -> "LayerPlan":  # noqa: ARG002 - most do
        """What the plan of an MLP at a width comes to, where that is not as wide."""
        return plan


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
