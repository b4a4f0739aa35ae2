"""A refit is the least-squares fit of the output, and leaves all else alone."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor

from edgefuse.compression.methods.mlp_fusion import published
from edgefuse.compression.methods.prune import prune
from edgefuse.compression.methods.svd import factorise
from edgefuse.compression.refit import refit
from edgefuse.mlps.neurons import FusedNeurons, Layer
from tests.pico_layers import KINDS, I, P, as_points, error_of, make, output_as, output_of

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
METHODS = {
    "published": published,
    "prune": prune,
    "svd": lambda layer, *_: factorise(layer.neurons, 3),
}


def least_squares(layer: Layer, fused: FusedNeurons) -> Tensor:
    """What the best readout, with a bias where there is b2, says of the layer's inputs."""
    assert layer.inputs is not None
    features = fused.features(layer.inputs, layer.activation).double()
    wanted = output_of(layer).double()
    if layer.bias is not None:
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    return features @ torch.linalg.lstsq(features, wanted, driver="gelsd").solution


@EVERY_KIND
@pytest.mark.parametrize("method", METHODS)
def test_a_refit_says_what_least_squares_says(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("edgefuse.compression.refit"), "_RIDGE", 1e-9)
    layer = make(kind)
    fused = refit(layer, METHODS[method](layer, 7, 0))
    expected = least_squares(layer, fused)
    torch.testing.assert_close(output_as(fused, layer).double(), expected, rtol=1e-3, atol=1e-3)


@EVERY_KIND
def test_the_ridge_pulls_towards_the_readout_before(kind: str) -> None:
    layer = make(kind)
    before = published(layer, 7, 0)
    fused = refit(layer, before)
    assert layer.inputs is not None
    features = before.features(layer.inputs, layer.activation).double()
    wanted = (layer.neurons.hidden(layer.inputs, layer.activation) @ layer.neurons.down.T).double()
    if layer.bias is not None:
        features, wanted = features - features.mean(dim=0), wanted - wanted.mean(dim=0)
    penalty = (1e-4 * features.square().sum(dim=0).mean()).sqrt()
    rows = torch.cat([features, penalty * torch.eye(7)])
    targets = torch.cat([wanted, penalty * before.readout.T.double()])
    expected = torch.linalg.lstsq(rows, targets).solution.T.float()
    torch.testing.assert_close(fused.readout, expected, rtol=1e-3, atol=1e-4)


@EVERY_KIND
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1, 7, I])
def test_a_refit_is_never_worse_on_its_own_inputs(kind: str, method: str, width: int) -> None:
    layer = make(kind)
    before = METHODS[method](layer, width, 0)
    assert error_of(refit(layer, before), layer) <= error_of(before, layer) * (1 + 1e-4) + 1e-6


@EVERY_KIND
def test_the_output_bias_makes_the_mean_right_where_there_is_one(kind: str) -> None:
    layer = make(kind)
    fused = refit(layer, published(layer, 7, 0))
    assert (fused.output_bias is None) == (layer.bias is None)
    if layer.bias is not None:
        mean = (output_as(fused, layer) - output_of(layer)).mean(dim=0)
        torch.testing.assert_close(mean, torch.zeros(P), rtol=0, atol=1e-5)


@EVERY_KIND
def test_neurons_and_multiplicities_stay(kind: str) -> None:
    layer = make(kind)
    before = published(layer, 7, 0)
    fused = refit(layer, before)
    assert torch.equal(fused.multiplicity, before.multiplicity)
    assert torch.equal(fused.neurons.rows(), before.neurons.rows())
    assert not torch.equal(fused.readout, before.readout)


def test_with_all_neurons_kept_nothing_changes() -> None:
    layer = make("dense")
    fused = refit(layer, prune(layer, I, 0))
    torch.testing.assert_close(
        as_points(fused.neurons), as_points(layer.neurons), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(fused.output_bias, layer.bias, rtol=1e-3, atol=1e-3)


def test_a_neuron_that_is_silent_on_the_text_keeps_its_readout() -> None:
    layer = make("dense", torch.relu)
    assert layer.neurons.up_bias is not None
    layer.neurons.up_bias[0] = -10000
    before = prune(layer, I, 0)
    torch.testing.assert_close(
        refit(layer, before).readout[:, 0], before.readout[:, 0], rtol=1e-3, atol=1e-3
    )


def test_text_is_read_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make("gated with biases")
    before = published(layer, 7, 0)
    whole = refit(layer, before)
    monkeypatch.setattr(import_module("edgefuse.mlps.neurons"), "_TOKENS_AT_ONCE", 16)
    torch.testing.assert_close(refit(layer, before).readout, whole.readout, rtol=1e-3, atol=1e-4)


def test_an_expert_that_no_token_reaches_stays() -> None:
    layer = replace(make("gated"), inputs=torch.zeros(0, P))
    before = published(layer, 7, 0)
    assert refit(layer, before) is before
