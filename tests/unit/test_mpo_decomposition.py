"""Matrices as chains of tensors: exact at full bonds, bounded below, canonical throughout."""

import math

import pytest
import torch
from torch import Tensor

from edgefuse.layers.chains.decomposition import (
    CENTRAL,
    MPO,
    canonical,
    decompose,
    parameter_count,
    rebuild,
)
from edgefuse.layers.chains.dimensions import choose_dimensions

PAPERS = [(768, 3072), (768, 768)]
SHAPES = [(48, 60), (64, 64), (37, 16), (3, 40), (1, 1)]


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Weights whose singular values fall, as trained ones' do."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rows, generator=generator)
    right = torch.randn(rows, columns, generator=generator)
    return left @ (right / (1 + torch.arange(rows))[:, None] ** 0.5) / rows


def decomposed(weight: Tensor) -> MPO:
    return decompose(weight, choose_dimensions(*weight.shape))


def random_bonds(mpo: MPO, generator: torch.Generator) -> list[int]:
    return [int(torch.randint(1, bond + 1, (), generator=generator)) for bond in mpo.bonds]


def test_local_dimensions_are_the_authors_for_their_shapes() -> None:
    wide = choose_dimensions(768, 3072)
    assert (wide.rows, wide.columns) == ((3, 4, 4, 4, 4), (4, 4, 8, 6, 4))
    assert wide.full_bonds == (1, 12, 192, 384, 16, 1)
    square = choose_dimensions(768, 768)
    assert (square.rows, square.columns) == ((3, 4, 4, 4, 4), (4, 4, 4, 4, 3))
    assert square.full_bonds == (1, 12, 192, 192, 12, 1)


@pytest.mark.parametrize(("rows", "columns"), [*SHAPES, (3072, 768), (384, 1536), (8960, 1536)])
def test_local_dimensions_multiply_to_the_matrix(rows: int, columns: int) -> None:
    dimensions = choose_dimensions(rows, columns)
    assert (math.prod(dimensions.rows), math.prod(dimensions.columns)) == (rows, columns)
    assert max(dimensions.rows) == dimensions.rows[CENTRAL]
    assert max(dimensions.columns) == dimensions.columns[CENTRAL]


@pytest.mark.parametrize("vocabulary", [30522, 50257, 128256, 151936])
def test_a_vocabulary_is_padded_a_little_for_even_factors(vocabulary: int) -> None:
    padded = choose_dimensions(vocabulary, 768, pads=True)
    assert vocabulary <= padded.padded_rows <= 1.01 * vocabulary
    assert max(padded.rows) <= 2 * min(padded.rows)


@pytest.mark.parametrize(("rows", "columns"), [*PAPERS, *SHAPES])
def test_full_bonds_lose_nothing(rows: int, columns: int) -> None:
    weight = matrix(rows, columns)
    mpo = decomposed(weight)
    assert (1, *mpo.bonds, 1) == mpo.dimensions.full_bonds
    assert mpo.matrix().shape == weight.shape
    near = {"rtol": 1e-5, "atol": 1e-5 * float(weight.abs().max())}
    torch.testing.assert_close(mpo.matrix().float(), weight, **near)
    in_float32 = rebuild([tensor.float() for tensor in mpo.tensors])
    torch.testing.assert_close(in_float32, weight, **near)
    assert mpo.error_bound() == 0


def test_full_bonds_have_the_papers_parameter_counts() -> None:
    for (rows, columns), more, share in zip(PAPERS, (0.08, 0.125), (0.08, 0.125), strict=True):
        dimensions = choose_dimensions(rows, columns)
        total, auxiliary = parameter_count(dimensions, dimensions.full_bonds[1:-1])
        assert total == pytest.approx((1 + more) * rows * columns, rel=0.005)
        assert auxiliary == pytest.approx(share * rows * columns, rel=0.03)
        mpo = decomposed(matrix(rows, columns))
        sizes = [tensor.numel() for tensor in mpo.tensors]
        assert (sum(sizes), sum(sizes) - sizes[CENTRAL]) == (total, auxiliary)
        assert max(sizes) == sizes[CENTRAL]


def test_the_error_stays_below_its_bound_for_200_random_choices_of_bonds() -> None:
    generator = torch.Generator().manual_seed(1)
    nearest = 0.0
    for trial in range(200):
        rows, columns = SHAPES[trial % 3]
        if trial % 20 == 0 or trial < 3:
            mpos = {}
        if (rows, columns) not in mpos:
            mpos[rows, columns] = decomposed(matrix(rows, columns, seed=trial))
        mpo = mpos[rows, columns]
        bonds = random_bonds(mpo, generator)
        cut = mpo.truncate(bonds)
        error = float((mpo.matrix() - cut.matrix()).norm())
        assert error <= cut.error_bound() + 1e-9
        assert cut.error_bound() == mpo.error_bound(bonds)
        if any(bond < full for bond, full in zip(bonds, mpo.bonds, strict=True)):
            nearest = max(nearest, error / cut.error_bound())
    assert nearest > 0.9  # so the bound says something


@pytest.mark.parametrize("bond", range(4))
def test_the_bound_is_the_error_where_one_bond_is_cut(bond: int) -> None:
    mpo = decomposed(matrix(48, 60))
    bonds = list(mpo.bonds)
    bonds[bond] //= 2
    error = float((mpo.matrix() - mpo.truncate(bonds).matrix()).norm())
    assert error == pytest.approx(mpo.error_bound(bonds), rel=1e-9)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_spectra_are_the_singular_values_of_every_unfolding(rows: int, columns: int) -> None:
    weight = matrix(rows, columns).double()
    mpo = decomposed(weight)
    i, j = mpo.dimensions.rows, mpo.dimensions.columns
    n = len(i)
    pairs = weight.reshape(*i, *j).permute([axis for m in range(n) for axis in (m, n + m)])
    for m, spectrum in enumerate(mpo.spectra, start=1):
        unfolded = pairs.reshape(math.prod(i[:m]) * math.prod(j[:m]), -1)
        expected = torch.linalg.svdvals(unfolded)[: len(spectrum)]
        torch.testing.assert_close(spectrum, expected, rtol=1e-9, atol=1e-12)
    assert mpo.norm == pytest.approx(float(weight.norm()))


def assert_canonical(mpo: MPO) -> None:
    """λ_{m−1}^½ T_m λ_m^(−½) has orthonormal columns, λ_{m−1}^(−½) T_m λ_m^½ orthonormal rows."""
    ends = (torch.ones(1, dtype=torch.float64), *mpo.spectra, mpo.spectra[-1].new_ones(1))
    for m, tensor in enumerate(mpo.tensors):
        before, after = ends[m].sqrt()[:, None, None, None], ends[m + 1].sqrt()
        if m < len(mpo.tensors) - 1:
            left = (before * tensor / after).flatten(0, 2)
            torch.testing.assert_close(left.T @ left, torch.eye(left.shape[1]).double())
        if m > 0:
            right = (tensor * after / before).flatten(1)
            torch.testing.assert_close(right @ right.T, torch.eye(right.shape[0]).double())


def test_a_decomposition_is_canonical() -> None:
    assert_canonical(decomposed(matrix(48, 60)))


def test_canonical_form_of_any_chain_is_that_of_its_matrix() -> None:
    """As after fine-tuning: the chain's tensors moved, and no spectrum is true any more."""
    generator = torch.Generator().manual_seed(2)
    mpo = decomposed(matrix(48, 60))
    cut = mpo.truncate([2, 6, 6, 2]).tensors
    moved = [t + torch.randn(t.shape, generator=generator) for t in cut]
    again = canonical(moved)
    torch.testing.assert_close(again.matrix(), rebuild(moved))
    assert again.bonds == (2, 6, 6, 2)
    assert_canonical(again)
    for ours, theirs in zip(again.spectra, decomposed(rebuild(moved)).spectra, strict=True):
        torch.testing.assert_close(ours, theirs[: len(ours)])


def test_bonds_that_carry_nothing_are_dropped() -> None:
    constant = torch.full((48, 60), 0.5)
    mpo = decomposed(constant)
    assert mpo.bonds == (1, 1, 1, 1)
    torch.testing.assert_close(mpo.matrix().float(), constant)
    zero = decomposed(torch.zeros(48, 60))
    assert zero.bonds == (1, 1, 1, 1)
    assert torch.equal(zero.matrix(), torch.zeros(48, 60).double())


def test_a_padded_table_comes_back_without_its_padding() -> None:
    table = torch.randn(997, 16, generator=torch.Generator().manual_seed(3))
    mpo = decompose(table, choose_dimensions(997, 16, pads=True))
    assert mpo.dimensions.padded_rows > 997
    assert mpo.matrix().shape == (997, 16)
    torch.testing.assert_close(mpo.matrix().float(), table)
    assert mpo.truncate([3, 9, 9, 3]).matrix().shape == (997, 16)
