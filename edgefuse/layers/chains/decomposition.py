"""Decompose a matrix into a chain, bring it to canonical form, truncate it, and rebuild the matrix.

After Liu et al., "Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression based
on Matrix Product Operators" (ACL 2021, arXiv 2106.02205), and Gao et al., "Compressing deep neural
networks by matrix product operators" (Physical Review Research 2, 023300):

    W[i_1…i_n, j_1…j_n] = Σ T_1[i_1, j_1, :] T_2[:, i_2, j_2, :] … T_n[:, i_n, j_n]

The tensor in the middle is the central one and has nearly all parameters; the others are auxiliary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from edgefuse.layers.chains.dimensions import TENSORS, Dimensions

CENTRAL = TENSORS // 2

_NOTHING = 1e-10
"""Part of a bond's largest singular value below which there is only float64's rounding."""


@dataclass(frozen=True)
class MPO:
    """A chain of tensors in canonical form, with the spectra of its matrix.

    Attributes:
        tensors: T_1 … T_n, each (d_{m−1}, i_m, j_m, d_m), d_0 = d_n = 1; float64.
        spectra: λ_1 … λ_{n−1}, the singular values at every bond before any was cut off, float64,
            descending. Of bond m they are those of W unfolded into (i_1 j_1 … i_m j_m) × the rest.
        rows: I; the chain's own may be more, and those are padding.
    """

    tensors: tuple[Tensor, ...]
    spectra: tuple[Tensor, ...]
    rows: int

    @property
    def dimensions(self) -> Dimensions:
        """The local dimensions of its tensors."""
        return dimensions_of(self.tensors)

    @property
    def bonds(self) -> tuple[int, ...]:
        """d_1 … d_{n−1}."""
        return bonds_of(self.tensors)

    @property
    def norm(self) -> float:
        """‖W‖, Frobenius, before any truncation."""
        return float(self.spectra[0].norm())

    def matrix(self) -> Tensor:
        """W (I, J), float64, rebuilt."""
        return rebuild(self.tensors)[: self.rows]

    def truncate(self, bonds: Sequence[int]) -> "MPO":
        """Slice off what is beyond smaller bonds.

        Args:
            bonds: Bonds d_1 … d_{n−1}, none above those that there are.
        """
        assert all(new <= old for new, old in zip(bonds, self.bonds, strict=True))
        ends = (1, *bonds, 1)
        return replace(
            self,
            tensors=tuple(
                tensor[:left, :, :, :right]
                for tensor, (left, right) in zip(self.tensors, pairwise(ends), strict=True)
            ),
        )

    def error_bound(self, bonds: Sequence[int] | None = None) -> float:
        """Bound ‖W − MPO‖ by √Σ ε_m²; ε_m² is what bond m leaves out of its spectrum.

        Slicing bond m multiplies by the projection Q_m onto m's leading left singular vectors, so
        that the slices of all bonds give Q_1 … Q_{n−1} W. Squares add up, bond after bond, since
        ‖W − Q_1 X‖² = ‖W − Q_1 W‖² + ‖Q_1 (W − X)‖².

        Args:
            bonds: Bonds d_1 … d_{n−1} to cut to, for a fast estimate of what that would cost; None
                for those that there are.
        """
        kept = zip(self.spectra, self.bonds if bonds is None else bonds, strict=True)
        return math.sqrt(sum(float(spectrum[bond:].square().sum()) for spectrum, bond in kept))


def dimensions_of(tensors: Sequence[Tensor]) -> Dimensions:
    """Read the local dimensions of a chain."""
    shapes = [tensor.shape for tensor in tensors]
    return Dimensions(tuple(s[1] for s in shapes), tuple(s[2] for s in shapes))


def bonds_of(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Read the bonds d_1 … d_{n−1} of a chain."""
    return tuple(tensor.shape[-1] for tensor in tensors[:-1])


def parameter_count(dimensions: Dimensions, bonds: Sequence[int]) -> tuple[int, int]:
    """Count the elements of a chain with bonds d_1 … d_{n−1}: all, and those of auxiliary tensors.

    At full bonds there are more of them than the matrix has: by 8 % for 768 × 3072.
    """
    ends = pairwise((1, *bonds, 1))
    sizes = [
        left * i * j * right
        for (left, right), i, j in zip(ends, dimensions.rows, dimensions.columns, strict=True)
    ]
    return sum(sizes), sum(sizes) - sizes[CENTRAL]


def decompose(matrix: Tensor, dimensions: Dimensions) -> MPO:
    """Decompose a matrix without loss, at full bonds (less where it lacks rank).

    Args:
        matrix: Matrix W (I, J), of any float type.
        dimensions: Local dimensions of the chain; rows beyond I are padded with zeros.
    """
    rows = matrix.shape[0]
    padding = dimensions.padded_rows - rows
    matrix = torch.nn.functional.pad(matrix.detach().double(), (0, 0, 0, padding))
    return replace(canonical(_exact_chain(matrix, dimensions)), rows=rows)


def canonical(tensors: Sequence[Tensor]) -> MPO:
    """Bring any chain to canonical form: true spectra at every bond, √λ on both sides of it.

    A sweep from the right makes what is right of a bond orthonormal, and one from the left does an
    SVD at every bond, whose left singular vectors stay: T_m = λ_{m−1}^(−½) U_m λ_m^½.

    Args:
        tensors: Chain T_1 … T_n, each (d_{m−1}, i_m, j_m, d_m), of any float type. Directions of a
            bond that carry nothing are dropped.
    """
    chain = [tensor.detach().double() for tensor in tensors]
    for m in range(len(chain) - 1, 0, -1):
        q, r = torch.linalg.qr(chain[m].flatten(1).T)
        chain[m] = q.T.reshape(-1, *chain[m].shape[1:])
        chain[m - 1] = chain[m - 1] @ r.T
    spectra = []
    before = torch.ones(1, dtype=torch.float64)
    for m in range(len(chain) - 1):
        left, spectrum, right = torch.linalg.svd(chain[m].flatten(0, 2), full_matrices=False)
        kept = max(1, int((spectrum > _NOTHING * spectrum[0]).sum()))
        left, spectrum, right = left[:, :kept], spectrum[:kept], right[:kept]
        root = spectrum.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        shape = (*chain[m].shape[:3], kept)
        chain[m] = left.reshape(shape) * root / before[:, None, None, None]
        chain[m + 1] = ((spectrum[:, None] * right) @ chain[m + 1].flatten(1)).reshape(
            kept, *chain[m + 1].shape[1:]
        )
        spectra.append(spectrum)
        before = root
    chain[-1] = chain[-1] / before[:, None, None, None]
    rows = math.prod(tensor.shape[1] for tensor in chain)
    return MPO(tuple(chain), tuple(spectra), rows)


def rebuild(tensors: Sequence[Tensor]) -> Tensor:
    """Rebuild the matrix (Π i_m, Π j_m) of a chain, of the chain's type; differentiable."""
    left, middle, right = thirds(tensors)
    before, after = left.flatten(0, 2), right.flatten(1)  # (i j, a) and (b, i j)
    if joins_left_first((len(before), after.shape[1]), (before.shape[1], len(after))):
        whole = (before @ middle.flatten(1)).reshape(-1, len(after)) @ after
    else:
        whole = before @ (middle.flatten(0, 2) @ after).reshape(before.shape[1], -1)
    pairs = whole.reshape([size for tensor in (left, middle, right) for size in tensor.shape[1:3]])
    rows = math.prod(pairs.shape[::2])
    return pairs.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1)


def thirds(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Merge a chain into three tensors: what is left of the central one, it, and what is right.

    Merging the sides costs little, and whatever meets them takes fewer steps.

    Returns:
        Tensors (1, i, j, a), (a, i, j, b) and (b, i, j, 1), where i and j are products.
    """
    return _merge(tensors[:CENTRAL]), tensors[CENTRAL], _merge(tensors[CENTRAL + 1 :])


def joins_left_first(sides: tuple[int, int], bonds: tuple[int, int]) -> bool:
    """Tell whether joining the left side first takes fewer multiplications than the right side.

    Args:
        sides: Products i j of all that is left of the central tensor, and of all that is right.
        bonds: Bonds of the central tensor.
    """
    (left, right), (a, b) = sides, bonds
    return left * b * (a + right) <= right * a * (b + left)


def _merge(tensors: Sequence[Tensor]) -> Tensor:
    """Merge neighbours in a chain into one tensor."""
    merged = tensors[0]
    for tensor in tensors[1:]:
        left, i, j, _ = merged.shape
        _, more_i, more_j, right = tensor.shape
        product = merged.flatten(0, 2) @ tensor.flatten(1)
        pairs = product.reshape(left, i, j, more_i, more_j, right).transpose(2, 3)
        merged = pairs.reshape(left, i * more_i, j * more_j, right)
    return merged


def _exact_chain(matrix: Tensor, dimensions: Dimensions) -> list[Tensor]:
    """Make a chain at full bonds: the matrix in its middle, unit matrices on both sides."""
    rows, columns, bonds = dimensions.rows, dimensions.columns, dimensions.full_bonds
    n = len(rows)
    pairs = [axis for m in range(n) for axis in (m, n + m)]
    whole = matrix.reshape(*rows, *columns).permute(pairs)
    shapes = [(bonds[m], rows[m], columns[m], bonds[m + 1]) for m in range(n)]
    middle = max(range(n), key=lambda m: math.prod(shapes[m]))

    def unit(m: int) -> Tensor:
        return torch.eye(max(bonds[m], bonds[m + 1]), dtype=matrix.dtype).reshape(shapes[m])

    return [whole.reshape(shapes[m]) if m == middle else unit(m) for m in range(n)]
