"""Each published ablation does what its definition says."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse.compression.methods.clustering import clustering, misfit
from edgefuse.compression.methods.mmd import mmd
from edgefuse.compression.methods.prune import flap, prune, prune_activation
from edgefuse.compression.methods.random import INITIALIZER_RANGE, random
from edgefuse.compression.methods.sketch import sketch, sketch_top
from edgefuse.compression.methods.svd import factorise, svd
from edgefuse.layers.low_rank import LowRankLinear
from edgefuse.layers.stand_ins import fold
from edgefuse.mlps.install import place
from edgefuse.mlps.low_rank import install_low_rank
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.neurons import FusedNeurons, Layer, Neurons
from tests.pico_layers import KINDS, I, P, as_points, duplicated, make, output_as, output_of
from tests.pico_models import pico_model

METHODS = (clustering, flap, mmd, prune, prune_activation, random, sketch, sketch_top)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_neurons_of_the_same_parts_at_the_width(method, kind: str) -> None:
    layer = make(kind)
    fused = method(layer, 7, 0)
    before, after = layer.neurons, fused.neurons
    assert (after.width, after.hidden_size, fused.multiplicity.shape) == (7, P, (7,))
    for name in ("up_bias", "gate", "gate_bias"):
        assert (getattr(before, name) is None) == (getattr(after, name) is None)
    assert output_as(fused, layer).isfinite().all()
    assert output_as(fused, layer).shape == (50, P)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_neurons_twice(method) -> None:
    layer = make("gated")
    once, twice = method(layer, 7, 3), method(layer, 7, 3)
    assert torch.equal(as_points(once.neurons), as_points(twice.neurons))
    assert torch.equal(once.multiplicity, twice.multiplicity)


@pytest.mark.parametrize("method", [mmd, random, sketch, sketch_top])
def test_another_seed_gives_other_neurons_where_the_method_draws(method) -> None:
    layer = make("dense")
    assert not torch.equal(
        as_points(method(layer, 7, 0).neurons), as_points(method(layer, 7, 1).neurons)
    )


# prune


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [flap, prune, prune_activation, sketch_top])
def test_keeping_every_neuron_is_the_identity(method, kind: str) -> None:
    layer = make(kind)
    fused = method(layer, I, 0)
    assert torch.equal(as_points(fused.neurons), as_points(layer.neurons))
    assert torch.equal(output_as(fused, layer), output_of(layer))


def test_prune_keeps_the_largest_products_of_norms_as_they_are() -> None:
    neurons = make("dense").neurons
    loud = torch.tensor([2, 5, 11])
    neurons.up[loud] *= 10
    neurons.down[:, 5] *= 10
    neurons.up[7] *= 30  # loud in, silent out
    neurons.down[:, 7] *= 0.001
    fused = prune(Layer(neurons, F.gelu), 3, 0)
    assert torch.equal(as_points(fused.neurons), as_points(neurons)[loud])
    assert torch.equal(fused.multiplicity, torch.ones(3))
    assert fused.output_bias is None


def test_prune_scores_a_neuron_the_same_however_its_scale_is_shared_out() -> None:
    layer = make("gated", F.silu)
    alpha = torch.linspace(0.1, 10, I)
    neurons = layer.neurons
    shared = Neurons(neurons.up * alpha[:, None], neurons.down / alpha, gate=neurons.gate)
    other = Layer(shared, F.silu, layer.bias, layer.inputs)
    torch.testing.assert_close(
        output_as(prune(other, 9, 0), other), output_as(prune(layer, 9, 0), layer)
    )


def test_prune_by_weights_sees_a_small_gate() -> None:
    neurons = make("gated").neurons
    assert neurons.gate is not None
    neurons.gate[0] *= 1e-4
    neurons.up[0] *= 100
    kept = prune(Layer(neurons, F.silu), I - 1, 0).neurons
    assert torch.equal(kept.up, neurons.up[1:])


def test_pruning_by_activation_drops_a_large_neuron_that_text_never_wakes() -> None:
    layer = make("dense", F.relu)
    assert layer.neurons.up_bias is not None
    layer.neurons.up_bias[4] = -10000
    layer.neurons.up[4] *= 100
    assert 4 not in _kept(prune_activation(layer, I - 1, 0), layer.neurons)
    assert 4 in _kept(prune(layer, 1, 0), layer.neurons)


def _kept(fused: FusedNeurons, neurons: Neurons) -> set[int]:
    return {int((neurons.up == row).all(dim=1).nonzero()) for row in fused.neurons.up}


def test_pruning_by_activation_is_the_root_mean_square_times_the_norm(monkeypatch) -> None:
    monkeypatch.setattr(import_module("edgefuse.mlps.neurons"), "_TOKENS_AT_ONCE", 16)
    layer = make("gated", F.silu)
    assert layer.inputs is not None
    hidden = layer.neurons.hidden(layer.inputs, F.silu)
    score = hidden.square().mean(dim=0).sqrt() * layer.neurons.down.norm(dim=0)
    kept = _kept(prune_activation(layer, 10, 0), layer.neurons)
    assert kept == set(score.topk(10).indices.tolist())


def test_flap_goes_by_the_variance_and_not_by_the_mean(monkeypatch) -> None:
    monkeypatch.setattr(import_module("edgefuse.mlps.neurons"), "_TOKENS_AT_ONCE", 16)
    layer = make("gated", F.silu)
    assert layer.inputs is not None
    hidden = layer.neurons.hidden(layer.inputs, F.silu)
    score = hidden.var(dim=0) * layer.neurons.down.square().sum(dim=0)
    kept = _kept(flap(layer, 10, 0), layer.neurons)
    assert kept == set(score.topk(10).indices.tolist())


def test_flap_drops_a_neuron_that_always_says_the_same() -> None:
    layer = make("dense", F.relu)
    assert layer.neurons.up_bias is not None
    layer.neurons.up[4] = 0
    layer.neurons.up_bias[4] = 1000
    assert 4 not in _kept(flap(layer, I - 1, 0), layer.neurons)
    assert 4 in _kept(prune_activation(layer, 1, 0), layer.neurons)


@pytest.mark.parametrize("method", [flap, prune_activation])
def test_pruning_on_text_goes_by_the_weights_of_an_expert_that_nothing_reaches(method) -> None:
    layer = make("gated")
    starved = Layer(layer.neurons, layer.activation, inputs=torch.zeros(0, P))
    kept = _kept(method(starved, 5, 0), layer.neurons)
    assert kept == _kept(prune(layer, 5, 0), layer.neurons)


# sketch


@pytest.mark.parametrize("method", [sketch, sketch_top])
def test_the_mean_over_sketches_is_the_linear_output(method) -> None:
    layer = make("dense", activation=lambda z: z)
    wanted = output_of(layer)
    outputs = torch.stack([output_as(method(layer, 12, seed), layer) for seed in range(3000)])
    spread = outputs.std(dim=0) / len(outputs) ** 0.5  # the mean's own standard error
    assert ((outputs.mean(dim=0) - wanted).abs() < 6 * spread).all()
    assert (outputs[0] - wanted).norm() > 10 * (outputs.mean(dim=0) - wanted).norm()


def test_a_sketch_mixes_every_part_by_one_matrix_of_variance_one_over_k() -> None:
    k, bias = 100, make("dense", count=400).neurons.up_bias
    unit = Neurons(up=torch.eye(400), down=torch.eye(400), up_bias=bias, gate=torch.eye(400))
    fused = sketch(Layer(unit, F.silu), k, 0).neurons
    assert fused.gate is not None
    assert fused.up_bias is not None
    assert bias is not None
    s = fused.down
    assert torch.equal(fused.up, s.T)
    assert torch.equal(fused.gate, s.T)
    torch.testing.assert_close(fused.up_bias, s.T @ bias)
    assert float(s.var()) == pytest.approx(1 / k, rel=0.03)
    assert float(s.mean()) == pytest.approx(0, abs=0.003)


def test_a_sketch_that_keeps_the_top_has_them_unchanged() -> None:
    layer = make("dense")
    best = prune(layer, 4, 0).neurons
    top = sketch_top(layer, 12, 0).neurons
    assert {tuple(row.tolist()) for row in as_points(top)[:4]} == {
        tuple(row.tolist()) for row in as_points(best)
    }


# clustering


SIZES = [9, 7, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("kind", "activation"),
    [("dense", F.relu), ("dense", F.leaky_relu), ("gated", F.silu), ("gated with biases", F.gelu)],
)
def test_root_n_is_exact_on_duplicated_neurons_where_it_fits(kind, activation) -> None:
    layer = duplicated(make(kind, activation), SIZES)
    assert misfit(layer.activation, gated=layer.neurons.gate is not None) is None
    fused = clustering(layer, len(SIZES), 0)
    torch.testing.assert_close(output_as(fused, layer), output_of(layer), rtol=1e-4, atol=1e-5)
    assert torch.equal(fused.multiplicity, torch.ones(len(SIZES)))


@pytest.mark.parametrize("activation", [F.gelu, F.silu, torch.tanh, lambda z: F.relu(z).square()])
def test_root_n_says_that_it_does_not_fit_other_activations(activation) -> None:
    layer = duplicated(make("dense", activation), SIZES)
    assert "ReLU only" in (misfit(layer.activation, gated=layer.neurons.gate is not None) or "")
    fused = output_as(clustering(layer, len(SIZES), 0), layer)
    assert (fused - output_of(layer)).norm() > 0.01 * output_of(layer).norm()


def test_clustering_scales_both_sides_by_root_n() -> None:
    fused = clustering(duplicated(make("dense"), [16, 9]), 2, 0).neurons
    originals = as_points(make("dense").neurons)
    for original, size in zip(originals, (16, 9), strict=False):
        distance = (as_points(fused) - size**0.5 * original).norm(dim=1)
        assert float(distance.min()) < 1e-4


def test_more_clusters_than_distinct_neurons_leave_silent_ones() -> None:
    layer = duplicated(make("dense", F.relu), SIZES)
    fused = clustering(layer, 10, 0)
    assert int((fused.neurons.down.norm(dim=0) == 0).sum()) == 10 - len(SIZES)
    torch.testing.assert_close(output_as(fused, layer), output_of(layer), rtol=1e-4, atol=1e-5)


# mmd


def discrepancy(a: Tensor, b: Tensor) -> float:
    """MMD² by its definition."""
    a, b = a.double(), b.double()
    median = torch.pdist(b).square().median()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = (x[:, None] - y).square().sum(-1)
        return sum((-squares / (f * median)).exp() for f in (0.25, 0.5, 1, 2, 4)).mean()

    return float(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [50, 1024])
def test_mmd_falls_well_below_that_of_random_neurons(kind, batch, monkeypatch) -> None:
    module = import_module("edgefuse.compression.methods.mmd")  # its function has its name
    monkeypatch.setattr(module, "_BATCH", batch)
    layer = make(kind, count=200)
    points = as_points(layer.neurons)
    for seed in range(3):
        start = torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:20]
        learned = as_points(mmd(layer, 20, seed).neurons)
        assert 0 < discrepancy(learned, points) < 0.6 * discrepancy(points[start], points)


def test_mmd_finds_duplicated_neurons() -> None:
    layer = duplicated(make("dense"), [10] * 4)
    fused = mmd(layer, 4, 0)
    assert torch.equal(fused.multiplicity, torch.full((4,), 10.0))
    assert fused.output_bias is None
    distance = torch.cdist(as_points(make("dense").neurons)[:4], as_points(fused.neurons))
    assert float(distance.min(dim=1).values.max()) < 0.05
    wanted = output_of(layer)
    assert (output_as(fused, layer) - wanted).norm() < 0.05 * wanted.norm()


def test_mmd_of_identical_neurons_is_that_neuron() -> None:
    layer = duplicated(make("dense"), [12])
    wanted = output_of(layer)
    assert (output_as(mmd(layer, 3, 0), layer) - wanted).norm() < 0.02 * wanted.norm()


# random


def test_random_draws_as_transformers_initialises() -> None:
    layer = make("gated with biases")
    big = random(layer, 5000, 0)
    for weight in (big.neurons.up, big.neurons.down, big.neurons.gate):
        assert weight is not None
        assert float(weight.std()) == pytest.approx(INITIALIZER_RANGE, rel=0.02)
        assert float(weight.mean()) == pytest.approx(0, abs=0.001)
    for bias in (big.neurons.up_bias, big.neurons.gate_bias, big.output_bias):
        assert bias is not None
        assert not bias.any()


def test_random_draws_no_two_layers_or_experts_alike() -> None:
    drawn = [random(mlp.layer_view(), 4, 0).neurons.up for mlp in find_mlps(pico_model("mixtral"))]
    assert len({tuple(up.flatten().tolist()) for up in drawn}) == len(drawn)


def test_random_adds_no_output_bias_that_the_architecture_lacks() -> None:
    assert random(make("gated"), 5, 0).output_bias is None


# svd


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_rank_the_factors_are_the_mlp(kind: str) -> None:
    layer = make(kind, F.silu)
    full = factorise(layer.neurons, P)
    assert full.rank == P
    torch.testing.assert_close(output_as(full, layer), output_of(layer), rtol=1e-4, atol=1e-4)


def test_matrices_of_low_rank_are_found_exactly() -> None:
    layer = make("gated", F.silu)
    n = layer.neurons
    assert n.gate is not None
    thin = Neurons(
        n.up[:, :2] @ n.up[:2], n.down[:, :2] @ n.down[:2], gate=n.gate[:, :2] @ n.up[:2]
    )
    thin_layer = Layer(thin, F.silu, None, layer.inputs)
    torch.testing.assert_close(
        output_as(factorise(thin, 2), thin_layer), output_of(thin_layer), rtol=1e-3, atol=1e-3
    )


def test_each_matrix_is_the_nearest_of_its_rank() -> None:
    neurons = make("dense").neurons
    up = factorise(neurons, 2).up
    discarded = torch.linalg.svdvals(neurons.up)[2:]
    torch.testing.assert_close((neurons.up - up.left @ up.right).norm(), discarded.norm())
    torch.testing.assert_close(up.left.norm(dim=0), up.right.norm(dim=1))  # √σ on both


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [20, 30, 40])
def test_the_rank_takes_the_parameters_of_the_width_and_no_more(kind: str, width: int) -> None:
    layer = make(kind, count=40)
    neurons = layer.neurons
    low_rank = svd(layer, width, 0)
    assert low_rank.rank >= 1
    assert _parameters(low_rank) <= _parameters_at(neurons, width)
    step = (neurons.width + P) * (2 if neurons.gate is None else 3)
    assert _parameters(low_rank) + step > _parameters_at(neurons, width)


def _parameters(low_rank) -> int:
    parts = [low_rank.up_bias, low_rank.gate_bias]
    for factors in (low_rank.up, low_rank.gate, low_rank.down):
        parts += [] if factors is None else [factors.left, factors.right]
    return sum(part.numel() for part in parts if part is not None)


def _parameters_at(neurons: Neurons, width: int) -> int:
    return as_points(neurons)[:width].numel()


def test_features_and_their_readout_are_the_output() -> None:
    layer = make("dense")
    low_rank = svd(layer, 20, 0)
    assert layer.inputs is not None
    features = low_rank.features(layer.inputs, layer.activation)
    assert features.shape == (50, low_rank.rank)
    torch.testing.assert_close(
        F.linear(features, low_rank.down.left, layer.bias), output_as(low_rank, layer)
    )
    other = low_rank.with_readout(torch.zeros(P, low_rank.rank), torch.ones(P))
    assert torch.equal(output_as(other, layer), torch.ones(50, P))


class _Block(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        n = layer.neurons
        self.activation = layer.activation
        if n.gate is not None:
            self.gate = nn.Linear(P, I, bias=n.gate_bias is not None)
        self.up = nn.Linear(P, I, bias=n.up_bias is not None)
        self.down = nn.Linear(I, P, bias=layer.bias is not None)
        own = FusedNeurons(n, torch.ones(I), layer.bias)
        place(find_mlps(self), [own])

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "gate"):
            return self.down(self.activation(self.gate(x)) * self.up(x))
        return self.down(self.activation(self.up(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_installed_factors_compute_the_output_train_and_fold(kind: str) -> None:
    layer = make(kind, F.silu)
    low_rank = factorise(layer.neurons, 3)
    model = _Block(layer)
    torch.testing.assert_close(model(layer.inputs), output_of(layer))
    install_low_rank(find_mlps(model), [low_rank])
    wanted = output_as(low_rank, layer)
    torch.testing.assert_close(model(layer.inputs), wanted)

    model(layer.inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name

    fold(model)
    assert not any(isinstance(module, LowRankLinear) for module in model.modules())
    torch.testing.assert_close(model(layer.inputs), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_factors_are_installed_in_models(kind: str) -> None:
    model, plain = pico_model(kind), pico_model(kind)
    token_ids = torch.arange(3, 15).reshape(2, 6)

    def last_states(by: nn.Module) -> Tensor:
        return by(input_ids=token_ids, output_hidden_states=True).hidden_states[-1]

    low_rank = [factorise(mlp.layer_view().neurons, 3) for mlp in find_mlps(model)]
    place(find_mlps(plain), [one.product() for one in low_rank])
    wanted = last_states(plain)
    assert not torch.allclose(last_states(model), wanted, rtol=1e-2, atol=1e-2)
    install_low_rank(find_mlps(model), low_rank)
    torch.testing.assert_close(last_states(model), wanted, rtol=1e-4, atol=1e-4)

    (
        last_states(model) * torch.linspace(-1, 1, wanted.numel()).reshape(wanted.shape)
    ).sum().backward()
    layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    assert len(layers) == (3 if kind == "llama" else 2) * len(low_rank)
    for layer in layers:
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name

    fold(model)
    torch.testing.assert_close(last_states(model), wanted, rtol=1e-4, atol=1e-4)


def test_a_folded_layer_is_factorised_into_the_same_again() -> None:
    layer = make("dense")
    low_rank = factorise(layer.neurons, 3)
    folded = Neurons(
        low_rank.up.left @ low_rank.up.right,
        low_rank.down.left @ low_rank.down.right,
        low_rank.up_bias,
    )
    torch.testing.assert_close(
        output_as(factorise(folded, 3), layer), output_as(low_rank, layer), rtol=1e-4, atol=1e-4
    )
