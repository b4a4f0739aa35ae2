"""Errors are what their definitions say."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from edgefuse.compression.catalog import find_method
from edgefuse.compression.fidelity import Fidelity, measure_fidelity
from edgefuse.compression.methods.mlp_fusion import published
from edgefuse.compression.methods.prune import prune
from edgefuse.compression.methods.svd import factorise
from edgefuse.compression.recipe import Recipe
from edgefuse.compression.refit import refit
from edgefuse.mlps.low_rank import LowRank
from edgefuse.mlps.neurons import FusedNeurons, Layer
from tests.pico_layers import KINDS, I, P, make, output_as, output_of

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
REPLACEMENTS = {
    "fused": lambda layer: refit(layer, published(layer, 7, 0)),
    "low-rank": lambda layer: factorise(layer.neurons, 3),
}


def measure(layer: Layer, one: FusedNeurons | LowRank) -> Fidelity:
    assert layer.inputs is not None
    fidelity = measure_fidelity(layer, one, layer.inputs)
    assert fidelity is not None
    return fidelity


@EVERY_KIND
def test_a_perfect_copy_has_no_error(kind: str) -> None:
    layer = make(kind)
    assert measure(layer, prune(layer, I, 0)) == Fidelity(0, 0, 0)


@EVERY_KIND
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_the_output_error_is_relative_to_the_output(kind: str, replacement: str) -> None:
    layer = make(kind)
    one = REPLACEMENTS[replacement](layer)
    wanted = output_of(layer)
    expected = (output_as(one, layer) - wanted).norm() / wanted.norm()
    assert measure(layer, one).output_error == pytest.approx(float(expected), rel=1e-5)
    assert expected > 0.01


@EVERY_KIND
def test_kernel_errors_are_those_of_factors_that_share_out_their_product_evenly(
    kind: str,
) -> None:
    layer = make(kind)
    recipe = Recipe(find_method("svd"), refits=True, teaches=True, seed=0)
    done = recipe.reduce(layer, 12)
    saved = recipe.match(layer, done)
    assert isinstance(saved, LowRank)
    even = factorise(saved.product().neurons, saved.rank)
    even = replace(even, output_bias=saved.output_bias)
    assert vars(measure(layer, saved)) == pytest.approx(vars(measure(layer, even)), rel=1e-3)
    before = measure(layer, done)
    assert measure(layer, saved).output_error == pytest.approx(before.output_error, rel=1e-3)
    assert measure(layer, saved).ntk_error != pytest.approx(before.ntk_error, rel=1e-2)


def gradients(layer: Layer, one: FusedNeurons | LowRank, direction: Tensor) -> Tensor:
    """Each token's gradient with respect to all parameters (tokens, parameters), P constant."""
    # Not float64: a GELU far below zero is 0 in float32, and has no sign.
    parameters = one.parameters(layer.bias)

    def projection(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y = one.with_parameters(parameters).output(x, layer.activation, None)
        return y @ direction

    assert layer.inputs is not None
    per_token = vmap(grad(projection), in_dims=(None, 0))(parameters, layer.inputs)
    return torch.cat([g.flatten(1) for g in per_token.values()], dim=1)


@EVERY_KIND
@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("activation", [F.gelu, F.silu])
def test_kernel_errors_are_those_of_the_gradients_of_each_token(
    kind: str, replacement: str, activation
) -> None:
    layer = make(kind, activation)
    one = REPLACEMENTS[replacement](layer)
    directions = torch.randn(8, P, generator=torch.Generator().manual_seed(0))
    sign_kernels, kernels = [], []
    for mlp in (prune(layer, I, 0), one):
        g = [gradients(layer, mlp, direction) for direction in directions]
        sign_kernels.append(sum(each @ each.sign().T for each in g))
        kernels.append(sum(each @ each.T for each in g))
    found = measure(layer, one)
    for error, (exact, fused) in (
        (found.sign_ntk_error, sign_kernels),
        (found.ntk_error, kernels),
    ):
        expected = float((fused - exact).norm() / exact.norm())
        assert error == pytest.approx(expected, rel=1e-3)
        assert expected > 0.01


def test_a_neuron_that_stands_for_two_learns_as_both_only_under_adam() -> None:
    layer = make("dense")
    twice = layer.neurons.select(torch.arange(I).repeat(2))
    wide = replace(layer, neurons=twice)
    fused = FusedNeurons(layer.neurons, torch.full((I,), 2.0))
    fidelity = measure(wide, fused)
    assert fidelity.output_error < 1e-6
    assert fidelity.sign_ntk_error < 1e-6
    assert fidelity.ntk_error > 0.5


def test_many_tokens_are_read_in_parts_and_kernels_have_a_few_of_them() -> None:
    layer = make("gated", tokens=10_000)
    one = published(layer, 7, 0)
    wanted = output_of(layer)
    expected = (output_as(one, layer) - wanted).norm() / wanted.norm()
    found = measure(layer, one)
    assert found.output_error == pytest.approx(float(expected), rel=1e-5)
    few = layer.inputs[:256]
    other = measure_fidelity(layer, one, few)
    assert other is not None
    assert found.sign_ntk_error != other.sign_ntk_error  # not the first ones: from everywhere
    assert found.sign_ntk_error == pytest.approx(other.sign_ntk_error, rel=0.2)


def test_an_expert_that_no_token_reaches_has_no_errors() -> None:
    layer = make("gated")
    assert measure_fidelity(layer, published(layer, 7, 0), torch.zeros(0, P)) is None


def test_an_mlp_that_says_nothing_is_copied_by_one_that_says_nothing() -> None:
    layer = make("dense without biases")
    silent = replace(layer, neurons=layer.neurons.with_down(torch.zeros(P, I)))
    assert measure(silent, prune(silent, 7, 0)).output_error == 0
