"""How far bonds are cut: by one number for all, to a budget, or to an error."""

from collections.abc import Callable, Sequence

import numpy as np

from edgefuse.mpo.decomposition import MPO, parameter_count

Bonds = tuple[int, ...]


def cut_evenly(mpos: Sequence[MPO], bond: int) -> list[Bonds]:
    """Every bond at most `bond`."""
    return [tuple(min(bond, own) for own in mpo.bonds) for mpo in mpos]


def cut_to_parameters(mpos: Sequence[MPO], parameters: int) -> list[Bonds]:
    """Bonds with which all chains together have at most so many parameters, at the least error.

    What is cut next is always what adds least to Σ ‖W − MPO‖² / ‖W‖² for each parameter that goes,
    by the fast estimate.
    """
    cuts = Cuts(mpos)
    cuts.go_on(lambda: cuts.parameters > parameters)
    return cuts.bonds


def cut_to_error(mpo: MPO, error: float) -> Bonds:
    """The bonds with the fewest parameters, nearly, at which ‖W − MPO‖ ≤ error · ‖W‖ for sure."""
    cuts = Cuts([mpo], most=error**2)
    cuts.go_on(lambda: True)
    return cuts.bonds[0]


class Cuts:
    """Chains that are cut bond by bond, always where it costs least.

    Attributes:
        parameters: Of all chains as they are cut now.
        error: Σ (ε / ‖W‖)² of all bonds: the squared bounds of all chains.
    """

    def __init__(self, mpos: Sequence[MPO], *, most: float = np.inf) -> None:
        """Begin at the bonds that there are.

        Args:
            mpos: Chains of the same number of tensors.
            most: What `error` may reach.
        """
        self._mpos = mpos
        self._most = most
        self._spectra = [
            [(spectrum / (mpo.norm or 1)).square().numpy() for spectrum in mpo.spectra]
            for mpo in mpos
        ]
        self._bonds = np.array([mpo.bonds for mpo in mpos])
        self._sizes = np.array([np.prod([t.shape[1:3] for t in m.tensors], axis=1) for m in mpos])
        self.parameters = sum(parameter_count(mpo.dimensions, mpo.bonds)[0] for mpo in mpos)
        self.error = sum(mpo.error_bound() ** 2 / (mpo.norm**2 or 1) for mpo in mpos)
        self._price = np.array(
            [[self._price_of(k, m) for m in range(len(mpo.bonds))] for k, mpo in enumerate(mpos)]
        )

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
            if self.error + added > self._most:
                self._price[k, m] = np.inf
                continue
            self.error += added
            self.parameters -= self._saved(int(k), int(m))
            self._bonds[k, m] -= 1
            for neighbour in (m - 1, m, m + 1):
                if 0 <= neighbour < self._bonds.shape[1]:
                    self._price[k, neighbour] = self._price_of(int(k), int(neighbour))

    def _price_of(self, k: int, m: int) -> float:
        return self._added(k, m) / self._saved(k, m) if self._bonds[k, m] > 1 else np.inf

    def _added(self, k: int, m: int) -> float:
        return float(self._spectra[k][m][self._bonds[k, m] - 1])

    def _saved(self, k: int, m: int) -> int:
        """Parameters of both tensors at bond m for each of its directions."""
        bonds = np.concatenate([[1], self._bonds[k], [1]])
        sizes = self._sizes[k]
        return int(bonds[m] * sizes[m] + sizes[m + 1] * bonds[m + 2])
