"""How far the bonds of a decomposition are cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.compression.chains.bonds import Bonds, cut_evenly, cut_to_error, cut_to_parameters
from edgefuse.layers.chains.decomposition import MPO, parameter_count
from edgefuse_devices.errors import InputError


@dataclass(frozen=True)
class Limit:
    """How far bonds are cut, in one of three ways.

    Attributes:
        bond: The largest bond to keep.
        budget: Part of the matrices' parameters to keep, all together, at the least error.
        max_error: ‖W − MPO‖ / ‖W‖ of each matrix at most; 0 cuts nothing.
    """

    bond: int | None = None
    budget: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            InputError: It is not exactly one of the three, or out of range.
        """
        given = [value for value in (self.bond, self.budget, self.max_error) if value is not None]
        if len(given) != 1:
            raise InputError(
                "How far to cut bonds is " + ("given more than once" if given else "not given"),
                "Give one of --bond N, --budget 0.7 and --max-error 0.1; --max-error 0 cuts none",
            )
        if self.bond is not None and self.bond < 1:
            raise InputError(f"A bond of {self.bond} leaves nothing", "Give a --bond of 1 or more")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise InputError(
                f"A budget of {self.budget:g} is not above 0 and up to 1",
                "Give the part of the matrices' parameters to keep, such as --budget 0.7",
            )
        if self.max_error is not None and not 0 <= self.max_error < 1:
            raise InputError(
                f"An error of {self.max_error:g} is not from 0 to below 1",
                "Give ‖W − MPO‖ / ‖W‖ of each matrix at most, such as --max-error 0.1",
            )

    def bonds(self, mpos: Sequence[MPO]) -> list[Bonds]:
        """Bonds to cut every matrix to.

        Raises:
            InputError: Not even bonds of 1 are within the budget.
        """
        if self.bond is not None:
            return cut_evenly(mpos, self.bond)
        if self.max_error is not None:
            return [cut_to_error(mpo, self.max_error) for mpo in mpos]
        assert self.budget is not None
        whole = sum(mpo.rows * mpo.dimensions.column_count for mpo in mpos)
        allowed = int(self.budget * whole)
        least = sum(parameter_count(m.dimensions, [1] * len(m.bonds))[0] for m in mpos)
        if allowed < least:
            raise InputError(
                f"A budget of {self.budget:g} is {allowed:,} parameters, and bonds of 1 have "
                f"{least:,}",
                "Give a larger --budget",
            )
        return cut_to_parameters(mpos, allowed)
