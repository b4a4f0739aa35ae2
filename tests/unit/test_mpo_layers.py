"""Chains in layers: the same numbers as their matrix, in whatever order they meet activations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.chains.contraction import (
    ORDERS,
    Order,
    cheapest,
    from_the_left,
    from_the_right,
    multiplications,
    rebuilt,
)
from edgefuse.layers.chains.decomposition import MPO, decompose, rebuild
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.layers.chains.lookup import by_two_parts, suits
from edgefuse.layers.chains.modules import Chain, MPOEmbedding, MPOLinear, expect_batches
from edgefuse.layers.fused import FusedLinear

BONDS = [(4, 16, 20, 4), (3, 7, 9, 2), (1, 1, 1, 1), (4, 2, 20, 1), (2, 16, 3, 4)]


def mpo(rows: int = 48, columns: int = 80, *, pads: bool = False) -> MPO:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    return decompose(weight, choose_dimensions(rows, columns, pads=pads))


def tensors_of(mpo: MPO) -> list[Tensor]:
    return [tensor.float().contiguous() for tensor in mpo.tensors]


def cut(bonds: tuple[int, ...], *shape: int, pads: bool = False) -> MPO:
    whole = mpo(*shape, pads=pads)
    return whole.truncate([min(pair) for pair in zip(bonds, whole.bonds, strict=True)])


@pytest.mark.parametrize("bonds", BONDS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_gives_what_the_matrix_gives(order: Order, bonds: tuple[int, ...]) -> None:
    chain = cut(bonds)
    activations = torch.randn(2, 3, 80, generator=torch.Generator().manual_seed(1))
    expected = F.linear(activations, chain.matrix().float())
    found = order(activations, tensors_of(chain), None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("bonds", BONDS)
@pytest.mark.parametrize("order", ORDERS)
def test_multiplications_are_those_that_torch_counts(order: Order, bonds: tuple[int, ...]) -> None:
    chain = cut(bonds)
    with FlopCounterMode(display=False) as counter:
        order(torch.randn(7, 80), tensors_of(chain), None)
    counted = counter.get_total_flops() // 2
    assert multiplications(order, chain.dimensions, chain.bonds, tokens=7) == counted


def test_the_order_follows_the_bonds() -> None:
    wide = choose_dimensions(768, 3072)
    assert cheapest(wide, (12, 192, 384, 16)) is rebuilt
    assert cheapest(wide, (8, 8, 8, 8)) in (from_the_left, from_the_right)


def test_a_layer_takes_the_cheapest_order_and_another_with_other_bonds() -> None:
    assert cheapest(mpo().dimensions, (1, 1, 1, 1)) is not cheapest(mpo().dimensions, mpo().bonds)
    chains = [cut((1, 1, 1, 1)), mpo(), *map(cut, BONDS)]
    layer = MPOLinear(tensors_of(chains[0]), None)
    for chain in chains:
        layer.put(tensors_of(chain))
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(7, 80))
        order = cheapest(chain.dimensions, chain.bonds)
        counted = counter.get_total_flops() // 2
        assert counted == multiplications(order, chain.dimensions, chain.bonds, tokens=7)


@pytest.mark.parametrize("bonds", BONDS)
def test_a_linear_layer_keeps_bias_and_multiplicity(bonds: tuple[int, ...]) -> None:
    chain = cut(bonds)
    generator = torch.Generator().manual_seed(2)
    bias, p = torch.randn(48, generator=generator), torch.rand(80, generator=generator)
    activations = torch.randn(5, 80, generator=generator)
    layer = MPOLinear(tensors_of(chain), bias, multiplicity=p)
    expected = F.linear(activations * p, chain.matrix().float(), bias)
    near = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(layer(activations), expected, **near)
    merged, plain = layer.merged(), layer.plain()
    assert isinstance(merged, FusedLinear)
    assert type(plain) is nn.Linear
    torch.testing.assert_close(merged(activations), expected, **near)
    torch.testing.assert_close(plain(activations), expected, **near)
    torch.testing.assert_close(merged.multiplicity, p)


def test_a_layer_becomes_the_kind_that_it_was() -> None:
    bias = torch.randn(48)
    linear = MPOLinear(tensors_of(mpo()), None).plain()
    assert isinstance(linear, nn.Linear)
    assert linear.bias is None
    transposed = MPOLinear(tensors_of(mpo()), bias, transposed=True).plain()
    assert isinstance(transposed, Conv1D)
    activations = torch.randn(5, 80)
    torch.testing.assert_close(transposed(activations), linear(activations) + bias)


def test_parameters_are_central_and_auxiliary() -> None:
    layer = MPOLinear(tensors_of(mpo()), torch.zeros(48))
    names = {name for name, _ in layer.named_parameters()}
    assert names == {"central", *(f"auxiliary.{index}" for index in range(4)), "bias"}
    assert layer.central.numel() > max(tensor.numel() for tensor in layer.auxiliary)
    found = [tuple(tensor.shape) for tensor in layer.tensors]
    assert found == [tuple(tensor.shape) for tensor in mpo().tensors]


TABLE_BONDS = [(100, 100, 100, 100), (2, 3, 3, 2), (1, 2, 1, 1)]


def cut_table(bonds: tuple[int, ...]) -> MPO:
    return cut(bonds, 997, 24, pads=True)


@pytest.mark.parametrize("bonds", TABLE_BONDS)
@pytest.mark.parametrize("looks_up", [True, False])
def test_an_embedding_gives_the_tables_rows(bonds: tuple[int, ...], looks_up: bool) -> None:
    chain = cut_table(bonds)
    layer = MPOEmbedding(tensors_of(chain), 997, padding_idx=None)
    expect_batches(layer, 1 if looks_up else 1 << 40)
    assert layer.looks_up is looks_up
    ids = torch.tensor([[0, 996, 17], [500, 1, 1]])
    expected = F.embedding(ids, chain.matrix().float())
    near = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(layer(ids), expected, **near)
    torch.testing.assert_close(layer.plain()(ids), expected, **near)
    assert layer.weight.shape == (997, 24)


@pytest.mark.parametrize("bonds", TABLE_BONDS)
def test_gradients_of_rows_are_those_through_the_table(bonds: tuple[int, ...]) -> None:
    tensors = [tensor.double().requires_grad_() for tensor in cut_table(bonds).tensors]
    numbers = torch.tensor([0, 1, 2, 40, 41, 500, 996])
    weights = torch.randn(7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = by_two_parts(numbers, tensors)
    expected = rebuild(tensors)[numbers]
    torch.testing.assert_close(rows, expected)
    ours = torch.autograd.grad((rows * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("looks_up", [True, False])
def test_padding_learns_nothing_from_its_tokens(looks_up: bool) -> None:
    layer = MPOEmbedding(tensors_of(cut_table(TABLE_BONDS[0])), 997, padding_idx=3).double()
    expect_batches(layer, 1 if looks_up else 1 << 40)
    for ids in (torch.arange(997), torch.tensor([[3, 5, 3], [9, 5, 3]])):
        layer.zero_grad()
        layer(ids).square().sum().backward()
        tensors = [tensor.detach().requires_grad_() for tensor in layer.tensors]
        rows = F.embedding(ids, rebuild(tensors), padding_idx=3)
        expected = torch.autograd.grad(rows.square().sum(), tensors)
        for own, gradient in zip(layer.tensors, expected, strict=True):
            torch.testing.assert_close(own.grad, gradient, rtol=1e-4, atol=1e-4)


def test_rows_are_looked_up_where_that_holds_less_than_the_table() -> None:
    vocabulary = choose_dimensions(30522, 384, pads=True)
    full = vocabulary.full_bonds[1:-1]
    assert suits(vocabulary, full)
    assert not suits(vocabulary, full, tokens=2048)
    assert suits(vocabulary, (8, 8, 8, 8), tokens=2048)
    small = MPOEmbedding(tensors_of(cut_table(TABLE_BONDS[0])), 997, padding_idx=None)
    assert not small.looks_up


def test_looking_up_multiplies_less_than_half_as_much_as_the_table_does() -> None:
    vocabulary = choose_dimensions(30522, 384, pads=True)
    ends = (1, *vocabulary.full_bonds[1:-1], 1)
    shapes = zip(ends[:-1], vocabulary.rows, vocabulary.columns, ends[1:], strict=True)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        tensors = [torch.empty(shape) for shape in shapes]
        by_two_parts(torch.zeros(8, 64, dtype=torch.int64), tensors)
        looked_up = counter.get_total_flops()
        rebuild(tensors)
    assert looked_up < 0.5 * (counter.get_total_flops() - looked_up)


@pytest.mark.parametrize("bonds", BONDS[:2])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_tensors_are_those_through_the_matrix(
    bonds: tuple[int, ...], order: Order
) -> None:
    tensors = [tensor.double().requires_grad_() for tensor in tensors_of(cut(bonds))]
    activations = torch.randn(3, 80, dtype=torch.float64)
    ours = torch.autograd.grad(order(activations, tensors, None).square().sum(), tensors)
    theirs = torch.autograd.grad(rebuilt(activations, tensors).square().sum(), tensors)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_chain_says_its_dimensions_and_bonds() -> None:
    chain = cut((3, 7, 9, 2))
    module = Chain(tensors_of(chain), 48)
    assert module.bonds == chain.bonds
    assert module.dimensions == chain.dimensions
