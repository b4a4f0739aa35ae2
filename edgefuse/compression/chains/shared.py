"""One central tensor for all experts of a layer, auxiliary tensors for each.

Gao et al., "Parameter-Efficient Mixture-of-Experts Architecture for Pre-trained Language Models"
(COLING 2022, arXiv 2203.01104), start all experts from one matrix. Experts that were trained apart
have to be brought together first: W_e ≈ L_e C R_e, L_e and R_e being what is left and right of the
central tensor. With orthonormal L_e and R_e, the best C is a mean and the best L_e a Procrustes
rotation, so that both in turn only ever come nearer. In the end L_e and R_e are fitted freely.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.layers.chains.decomposition import CENTRAL, MPO, decompose, rebuild, thirds
from edgefuse.layers.chains.dimensions import Dimensions

_ROTATIONS = 20
_FITS = 3


def decompose_together(
    matrices: Sequence[Tensor], dimensions: Dimensions, bonds: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """Decompose matrices of one shape into chains with one central tensor.

    Args:
        matrices: W_e (I, J) of every expert.
        dimensions: Local dimensions of the matrices.
        bonds: d_1 … d_4 of every chain.

    Returns:
        T_1 … T_5 of every expert, float64; T_3 is the same tensor in all.
    """
    chains = [_with_bonds(decompose(matrix, dimensions), bonds) for matrix in matrices]
    (_, i, j, a), (_, k, h, b), (_, m, n, _) = (t.shape for t in thirds(chains[0]))
    wholes = [_in_thirds(matrix.double(), (i, k, m), (j, h, n)) for matrix in matrices]
    lefts, rights = [], []
    for chain in chains:
        left, _, right = thirds(chain)
        lefts.append(torch.linalg.qr(left.reshape(i * j, a))[0])
        rights.append(torch.linalg.qr(right.reshape(b, m * n).T)[0].T)
    central = torch.einsum("la,lmr,br->amb", lefts[0], wholes[0], rights[0])
    for _ in range(_ROTATIONS):
        for e, whole in enumerate(wholes):
            lefts[e] = _rotation(whole.flatten(1) @ (central @ rights[e]).flatten(1).T)
            met = torch.tensordot(lefts[e], central, 1).flatten(0, 1)
            rights[e] = _rotation(met.T @ whole.flatten(0, 1))
        parts = zip(lefts, wholes, rights, strict=True)
        central = torch.stack([torch.einsum("la,lmr,br->amb", *part) for part in parts]).mean(dim=0)
    for _ in range(_FITS):
        for e, whole in enumerate(wholes):
            right_met = (central @ rights[e]).flatten(1)
            lefts[e] = torch.linalg.lstsq(right_met.T, whole.flatten(1).T, driver="gelsd")[0].T
            left_met = torch.tensordot(lefts[e], central, 1).flatten(0, 1)
            rights[e] = torch.linalg.lstsq(left_met, whole.flatten(0, 1), driver="gelsd")[0]
    middle = central.reshape(a, k, h, b)
    return [
        (*_split_left(left, dimensions, bonds), middle, *_split_right(right, dimensions, bonds))
        for left, right in zip(lefts, rights, strict=True)
    ]


def _with_bonds(chain: MPO, bonds: Sequence[int]) -> tuple[Tensor, ...]:
    """A chain with exactly these bonds: filled up with zeros where its matrix lacks rank."""
    cut = chain.truncate([min(new, old) for new, old in zip(bonds, chain.bonds, strict=True)])
    return tuple(
        F.pad(tensor, (0, right - tensor.shape[3], 0, 0, 0, 0, 0, left - tensor.shape[0]))
        for tensor, (left, right) in zip(cut.tensors, pairwise((1, *bonds, 1)), strict=True)
    )


def relative_error(matrix: Tensor, tensors: Sequence[Tensor]) -> float:
    """‖W − MPO‖ / ‖W‖."""
    norm = float(matrix.double().norm()) or 1.0
    return float((matrix.double() - rebuild(tensors)).norm()) / norm


def _in_thirds(matrix: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """W as (left, middle, right), each of rows and columns."""
    pairs = matrix.reshape(*rows, *columns).permute(0, 3, 1, 4, 2, 5)
    return pairs.flatten(4, 5).flatten(2, 3).flatten(0, 1)


def _rotation(product: Tensor) -> Tensor:
    """The matrix with orthonormal rows or columns that has the largest product with another."""
    u, _, v = torch.linalg.svd(product, full_matrices=False)
    rotation: Tensor = u @ v
    return rotation


def _split_left(left: Tensor, dimensions: Dimensions, bonds: Sequence[int]) -> list[Tensor]:
    """T_1 and T_2 of L (i j, a), whose rows are i_1 i_2 j_1 j_2."""
    (i1, i2), (j1, j2) = dimensions.rows[:CENTRAL], dimensions.columns[:CENTRAL]
    pairs = left.reshape(i1, i2, j1, j2, -1).transpose(1, 2)
    first, second = _halves(pairs.reshape(i1 * j1, -1), bonds[0])
    return [first.reshape(1, i1, j1, -1), second.reshape(second.shape[0], i2, j2, -1)]


def _split_right(right: Tensor, dimensions: Dimensions, bonds: Sequence[int]) -> list[Tensor]:
    """T_4 and T_5 of R (b, i j), whose columns are i_4 i_5 j_4 j_5."""
    (i4, i5), (j4, j5) = dimensions.rows[CENTRAL + 1 :], dimensions.columns[CENTRAL + 1 :]
    pairs = right.reshape(-1, i4, i5, j4, j5).transpose(2, 3)
    first, second = _halves(pairs.reshape(-1, i5 * j5), bonds[3])
    return [first.reshape(-1, i4, j4, first.shape[1]), second.reshape(second.shape[0], i5, j5, 1)]


def _halves(matrix: Tensor, bond: int) -> tuple[Tensor, Tensor]:
    """The nearest product with that bond, √λ on both sides."""
    u, spectrum, v = torch.linalg.svd(matrix, full_matrices=False)
    root = spectrum[:bond].sqrt()
    return u[:, :bond] * root, root[:, None] * v[:bond]
