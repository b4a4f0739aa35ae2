"""The teaching stage brings an MLP nearer to what it stands for, or leaves it."""

from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch

from edgefuse.compression.methods.mlp_fusion import published
from edgefuse.compression.methods.prune import prune
from edgefuse.compression.methods.svd import factorise
from edgefuse.compression.refit import refit
from tests.pico_layers import KINDS, I, P, as_points, error_of, make

TEACHING = import_module("edgefuse.compression.teaching")
teach = partial(TEACHING.teach, epochs=10)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@EVERY_KIND
def test_teaching_goes_on_where_a_refit_ends_and_keeps_p(kind: str) -> None:
    layer = make(kind, tokens=2000)
    before = refit(layer, published(layer, 7, 0))
    after = teach(layer, before, 0)
    assert error_of(after, layer) < 0.8 * error_of(before, layer)
    assert torch.equal(after.multiplicity, before.multiplicity)
    assert (after.output_bias is None) == (layer.bias is None)
    assert not torch.equal(after.neurons.rows(), before.neurons.rows())
    assert not any(tensor.requires_grad for tensor in after.parameters(layer.bias).values())


@EVERY_KIND
def test_what_is_learned_holds_for_inputs_that_were_not_seen(kind: str) -> None:
    layer = make(kind, tokens=4000)
    assert layer.inputs is not None
    seen, others = (replace(layer, inputs=part) for part in layer.inputs.chunk(2))
    before = refit(seen, published(seen, 7, 0))
    assert error_of(teach(seen, before, 0), others) < 0.9 * error_of(before, others)


@EVERY_KIND
def test_low_rank_mlps_are_taught_too(kind: str) -> None:
    layer = make(kind, tokens=1000)
    before = factorise(layer.neurons, 3)
    after = teach(layer, before, 0)
    assert after.rank == 3
    assert error_of(after, layer) < 0.9 * error_of(before, layer)


def test_the_one_given_stays_as_it_was() -> None:
    layer = make("dense")
    before = prune(layer, 7, 0)
    copies = {name: tensor.clone() for name, tensor in before.parameters(layer.bias).items()}
    teach(layer, before, 0)
    for name, tensor in before.parameters(layer.bias).items():
        assert torch.equal(tensor, copies[name])


@pytest.mark.parametrize("rate", [30.0, float("inf")])
def test_what_teaching_does_not_bring_nearer_is_returned_as_it_was(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TEACHING, "_RATE", rate)
    layer = make("gated")
    before = refit(layer, published(layer, 7, 0))
    assert teach(layer, before, 0) is before


def test_a_perfect_copy_is_returned_as_it_was() -> None:
    layer = make("dense")
    before = prune(layer, I, 0)
    assert teach(layer, before, 0) is before


def test_a_seed_gives_the_same_weights_twice() -> None:
    layer = make("gated with biases", tokens=1500)
    before = prune(layer, 7, 0)
    once, twice, other = (as_points(teach(layer, before, seed).neurons) for seed in (0, 0, 1))
    assert torch.equal(once, twice)
    assert not torch.equal(once, other)


def test_how_scale_is_shared_between_matrices_makes_no_difference() -> None:
    layer = make("dense", torch.relu, tokens=1000)
    assert layer.neurons.up_bias is not None
    neurons = replace(
        layer.neurons,
        up=layer.neurons.up * 100,
        up_bias=layer.neurons.up_bias * 100,
        down=layer.neurons.down / 100,
    )
    shared = replace(layer, neurons=neurons)
    errors = [error_of(teach(one, prune(one, 7, 0), 0), one) for one in (layer, shared)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_an_expert_that_no_token_reaches_stays() -> None:
    layer = replace(make("gated"), inputs=torch.zeros(0, P))
    before = published(layer, 7, 0)
    assert teach(layer, before, 0) is before
