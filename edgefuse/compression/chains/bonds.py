"""How far bonds are cut: by one number for all, to a budget, or to an error."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from edgefuse.layers.chains.decomposition import MPO, bonds_of, dimensions_of, parameter_count

Bonds = tuple[int, ...]
Costs = Sequence[np.ndarray]
"""Costs of a chain: at every bond, what leaving out each of its directions costs, descending."""


def cut_evenly(mpos: Sequence[MPO], bond: int) -> list[Bonds]:
    """Every bond at most `bond`."""
    return [tuple(min(bond, own) for own in mpo.bonds) for mpo in mpos]


def cut_to_parameters(mpos: Sequence[MPO], parameters: int) -> list[Bonds]:
    """Bonds with which all chains together have at most so many parameters, at the least error.

    What is cut next is always what adds least to Σ ‖W − MPO‖² / ‖W‖² for each parameter that goes,
    by the fast estimate.
    """
    cuts = Cuts([mpo.tensors for mpo in mpos], [relative_costs(mpo) for mpo in mpos])
    cuts.go_on(lambda: cuts.parameters > parameters)
    return cuts.bonds


def cut_to_error(mpo: MPO, error: float) -> Bonds:
    """The bonds with the fewest parameters, nearly, at which ‖W − MPO‖ ≤ error · ‖W‖ for sure."""
    cuts = Cuts([mpo.tensors], [relative_costs(mpo)], most=error**2)
    cuts.go_on(lambda: True)
    return cuts.bonds[0]


def relative_costs(mpo: MPO) -> Costs:
    """(λ / ‖W‖)²: they add up to the fast estimate of (‖W − MPO‖ / ‖W‖)²."""
    return [(spectrum / (mpo.norm or 1)).square().numpy() for spectrum in mpo.spectra]


class Cuts:
    """Chains that are cut bond by bond, always where it costs least.

    Attributes:
        parameters: Parameters of all chains as they are cut now.
        cost: Cost of all that was left out, before and now.
    """

    def __init__(
        self,
        chains: Sequence[Sequence[Tensor]],
        costs: Sequence[Costs],
        *,
        most: float = np.inf,
    ) -> None:
        """Begin at the bonds that there are.

        Args:
            chains: T_1 … T_n of each chain, n the same for all.
            costs: Costs of each chain; what is beyond a chain's own bond has been left out before.
            most: The largest `cost` to reach.
        """
        self._costs = costs
        self._most = most
        self._bonds = np.array([bonds_of(chain) for chain in chains])
        self._sizes = np.array([np.prod([t.shape[1:3] for t in c], axis=1) for c in chains])
        self.parameters = sum(parameter_count(dimensions_of(c), bonds_of(c))[0] for c in chains)
        self.cost = sum(
            float(at_bond[bond:].sum())
            for own, bonds in zip(costs, self._bonds, strict=True)
            for at_bond, bond in zip(own, bonds, strict=True)
        )
        count, bonds = self._bonds.shape
        self._price = np.array([[self._price_of(k, m) for m in range(bonds)] for k in range(count)])

    @property
    def bonds(self) -> list[Bonds]:
        """d_1 … d_{n−1} of every chain as it is cut now."""
        return [tuple(map(int, bonds)) for bonds in self._bonds]

    def go_on(self, wanted: Callable[[], bool]) -> None:
        """Cut bonds by one while `wanted` says so, and until nothing more can be cut."""
        while wanted():
            k, m = np.unravel_index(np.argmin(self._price), self._price.shape)
            if not np.isfinite(self._price[k, m]):
                return
            added = self._added(int(k), int(m))
            if self.cost + added > self._most:
                self._price[k, m] = np.inf
                continue
            self.cost += added
            self.parameters -= self._saved(int(k), int(m))
            self._bonds[k, m] -= 1
            for neighbour in (m - 1, m, m + 1):
                if 0 <= neighbour < self._bonds.shape[1]:
                    self._price[k, neighbour] = self._price_of(int(k), int(neighbour))

    def _price_of(self, k: int, m: int) -> float:
        return self._added(k, m) / self._saved(k, m) if self._bonds[k, m] > 1 else np.inf

    def _added(self, k: int, m: int) -> float:
        return float(self._costs[k][m][self._bonds[k, m] - 1])

    def _saved(self, k: int, m: int) -> int:
        """Parameters of both tensors at bond m for each of its directions."""
        bonds = np.concatenate([[1], self._bonds[k], [1]])
        sizes = self._sizes[k]
        return int(bonds[m] * sizes[m] + sizes[m + 1] * bonds[m + 2])
