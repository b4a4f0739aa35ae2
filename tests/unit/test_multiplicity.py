"""P is matched to how the MLP learns, without a change of what it computes."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

from edgefuse.compression.fidelity import measure_fidelity
from edgefuse.compression.methods.mlp_fusion import mlp_fusion, published
from edgefuse.compression.methods.prune import prune
from edgefuse.compression.multiplicity import match_kernel
from edgefuse.compression.refit import refit
from edgefuse.mlps.neurons import FusedNeurons
from tests.pico_layers import KINDS, I, P, duplicated, make, output_as, output_of

MULTIPLICITY = import_module("edgefuse.compression.multiplicity")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SIZES = [9, 7, 4, 2, 1, 1]


@EVERY_KIND
def test_what_it_computes_stays(kind: str) -> None:
    layer = make(kind)
    before = refit(layer, published(layer, 7, 0))
    after = match_kernel(layer, before)
    torch.testing.assert_close(
        output_as(after, layer), output_as(before, layer), rtol=1e-5, atol=1e-4
    )
    assert torch.equal(after.neurons.rows(), before.neurons.rows())
    assert not torch.equal(after.multiplicity, before.multiplicity)


@EVERY_KIND
def test_merged_duplicates_have_their_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = duplicated(make(kind, tokens=2000), SIZES)
    counts = torch.tensor(SIZES, dtype=torch.float32)
    distinct = make(kind).neurons.select(torch.arange(len(SIZES)))
    alone = FusedNeurons(distinct.with_down(distinct.down * counts), torch.ones(len(SIZES)))
    after = match_kernel(layer, alone)
    torch.testing.assert_close(output_as(after, layer), output_of(layer), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after.multiplicity, counts, rtol=0, atol=0.35)  # the ridge
    monkeypatch.setattr(MULTIPLICITY, "_RIDGE", 1e-6)
    after = match_kernel(layer, alone)
    torch.testing.assert_close(after.multiplicity, counts, rtol=0, atol=0.01)


@EVERY_KIND
@pytest.mark.parametrize("activation", [F.gelu, F.silu, F.relu])
def test_a_matched_mlp_learns_more_alike_than_one_without_p(kind, activation) -> None:
    layer = make(kind, activation, count=96, tokens=2000)
    assert layer.inputs is not None
    seen, others = layer.inputs.chunk(2)
    layer = replace(layer, inputs=seen)
    alone = refit(layer, prune(layer, 24, 0))
    matched = match_kernel(layer, alone)
    errors = []
    for one in (alone, matched):
        fidelity = measure_fidelity(layer, one, others)
        assert fidelity is not None
        errors.append(fidelity.sign_ntk_error)
    assert errors[1] < 0.97 * errors[0]


def test_the_last_stage_of_the_default_computes_duplicated_neurons_exactly() -> None:
    layer = duplicated(make("dense", tokens=500), SIZES)
    fused = match_kernel(layer, refit(layer, mlp_fusion(layer, len(SIZES), 0)))
    torch.testing.assert_close(output_as(fused, layer), output_of(layer), rtol=1e-2, atol=1e-2)


def test_no_neuron_vanishes_and_none_that_text_never_wakes_fails() -> None:
    layer = make("dense", F.relu)
    assert layer.neurons.up_bias is not None
    layer.neurons.up_bias[:12] = -10000
    fused = match_kernel(layer, prune(layer, I, 0))
    assert (fused.multiplicity >= 0.25).all()
    assert fused.neurons.down.isfinite().all()
    layer.neurons.up_bias[:] = -10000
    assert torch.equal(match_kernel(layer, prune(layer, 7, 0)).multiplicity, torch.ones(7))


def test_an_expert_that_no_token_reaches_stays() -> None:
    layer = replace(make("gated"), inputs=torch.zeros(0, P))
    before = published(layer, 7, 0)
    assert match_kernel(layer, before) is before


@pytest.mark.parametrize("correlation", [0.1, 0.9])
def test_p_is_the_least_of_its_problem(correlation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 24, generator=generator, dtype=torch.float64)
    values += 3 * correlation * torch.randn(60, 1, generator=generator, dtype=torch.float64)
    matrix = values.T @ values
    target = matrix @ (torch.randn(24, generator=generator, dtype=torch.float64) + 1)
    p = MULTIPLICITY._bounded_least_squares(matrix, target)
    penalty = MULTIPLICITY._RIDGE * matrix.diagonal().mean()
    common = (target.sum() / matrix.sum()).clamp(min=0.25)
    gradient = matrix @ p - target + penalty * (p - common)
    bound = p <= 0.25
    assert 0 < bound.sum() < 24
    assert (p >= 0.25).all()
    assert (gradient[bound] > 0).all()
    torch.testing.assert_close(
        gradient[~bound], torch.zeros_like(gradient[~bound]), rtol=0, atol=1e-6
    )
