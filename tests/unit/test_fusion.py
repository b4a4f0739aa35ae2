"""Fusing keeps the block's output, and where neurons are duplicates also how it learns."""

import copy
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import edgefuse
from edgefuse.bundling.fused import fused_mlps
from edgefuse.compression.calibration import Texts
from edgefuse.compression.catalog import find_method
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.methods.mlp_fusion import published
from edgefuse.compression.plan import parse_layers, plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.layers.fused import FusedLinear, unfold
from edgefuse.layers.stand_ins import fold
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.neurons import FusedNeurons, Layer, Neurons
from edgefuse_devices.errors import InputError
from tests.pico_models import (
    ARCHITECTURES,
    LAYERS,
    TEXTS,
    WIDTH,
    duplicate_neurons,
    model_tokenizer,
    parameters,
    pico_config,
    pico_tokenizer,
)

PUBLISHED = Recipe(find_method("mlp-fusion"), refits=False, teaches=False, seed=0)  # without text


def pico_encoder(architecture: str, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(pico_config(architecture)).eval()
    model.requires_grad_(requires_grad=True)
    return model


def fuse(model: nn.Module, width: int, **kwargs: object) -> tuple[object, ...]:
    return fuse_model(model, plan_layers(find_mlps(model), width=width), PUBLISHED, **kwargs)


def batch() -> dict[str, Tensor]:
    inputs = pico_tokenizer("distilbert")(list(TEXTS), padding=True, return_tensors="pt")
    return dict(inputs)


def hidden_states(model: nn.Module) -> Tensor:
    inputs = batch()
    return model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 10) -> None:
    target = torch.randn(hidden_states(model).shape, generator=torch.Generator().manual_seed(5))
    for _ in range(steps):
        optimizer.zero_grad()
        (hidden_states(model) - target).square().sum(-1).mean().backward()
        optimizer.step()


def distance(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        return float((hidden_states(a) - hidden_states(b)).abs().max())


SIZES = [9, 7, 5, 4, 3, 2, 1, 1]


def test_duplicated_neurons_fuse_into_the_same_function_and_learn_alike_under_adam() -> None:
    original = pico_encoder("bert").double()
    duplicate_neurons(original, SIZES)
    fused = copy.deepcopy(original).float()
    records = fuse(fused, len(SIZES))
    fused.double()
    assert [sorted(record.multiplicities, reverse=True) for record in records] == [SIZES] * LAYERS
    assert distance(original, fused) < 1e-6

    folded = copy.deepcopy(fused)
    fold(folded)
    assert distance(original, folded) < 1e-6

    start = copy.deepcopy(original)
    for model in (original, fused, folded):
        train(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    assert distance(original, start) > 1e-2  # they did move
    assert distance(original, fused) < 1e-6
    assert distance(original, folded) > 1e-3  # why P stands alone while training


def test_under_sgd_duplicated_neurons_learn_alike_at_a_rate_of_one_over_the_cluster_size() -> None:
    original = pico_encoder("bert").double()
    duplicate_neurons(original, SIZES)
    fused = copy.deepcopy(original).float()
    fuse(fused, len(SIZES))
    fused.double()
    for model in (original, fused):
        for names in fused_mlps(model):
            n = model.get_buffer(names.multiplicity)
            for name, axis in names.neuron_axes.items():
                n_i = n[:, None] if axis == 0 and model.get_parameter(name).ndim == 2 else n
                model.get_parameter(name).register_hook(lambda grad, n_i=n_i: grad / n_i)
        train(model, torch.optim.SGD(model.parameters(), lr=1e-2))
    assert distance(original, fused) < 1e-6


def test_the_gradient_norm_is_the_unfused_one_when_fused_rows_weigh_one_over_root_n() -> None:
    original = pico_encoder("bert").double()
    duplicate_neurons(original, SIZES)
    fused = copy.deepcopy(original).float()
    fuse(fused, len(SIZES))
    fused.double()
    squares = []
    for model in (original, fused):
        hidden_states(model).square().mean().backward()
        for names in fused_mlps(model):
            root = model.get_buffer(names.multiplicity).sqrt()
            for name, axis in names.neuron_axes.items():
                gradient = model.get_parameter(name).grad
                gradient /= root[:, None] if axis == 0 and gradient.ndim == 2 else root
        squares.append(
            sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        )
    assert squares[0] == pytest.approx(squares[1], rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_trainable_form_keeps_the_names_and_adds_the_multiplicity(architecture: str) -> None:
    model = pico_encoder(architecture)
    before = set(model.state_dict())
    fuse(model, 8)
    added = set(model.state_dict()) - before
    assert before < set(model.state_dict())
    downs = [mlp.layout.down.name.removesuffix("weight") for mlp in find_mlps(model)]
    assert added == {f"{down}multiplicity" for down in downs}
    assert added == {f"{name}.multiplicity" for name in edgefuse.multiplicities(model)}
    assert not any(name.endswith("multiplicity") for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for multiplicity in edgefuse.multiplicities(model).values():
        assert multiplicity.shape == (8,)
        assert multiplicity.sum() == WIDTH


def test_the_hidden_size_may_equal_the_width() -> None:
    model = pico_encoder("bert")
    fuse(model, model.config.hidden_size)
    assert [block.layer for block in find_mlps(model)] == list(range(LAYERS))


def test_every_call_of_alberts_shared_layer_uses_the_fused_block() -> None:
    model = pico_encoder("albert")
    duplicate_neurons(model, SIZES)
    original = copy.deepcopy(model)
    records = fuse(model, len(SIZES))
    assert len(records) == 1
    assert distance(model, original) < 1e-5
    calls = []
    with watch_inputs(find_mlps(model), lambda *_: calls.append(1)):
        hidden_states(model)
    assert len(calls) == LAYERS


def random_neurons(count: int, hidden_size: int = 4) -> Neurons:
    generator = torch.Generator().manual_seed(0)
    return Neurons(
        up=torch.randn(count, hidden_size, generator=generator),
        up_bias=torch.randn(count, generator=generator),
        down=torch.randn(hidden_size, count, generator=generator),
    )


def fuse_neurons(neurons: Neurons, width: int, seed: int = 0) -> FusedNeurons:
    return published(Layer(neurons, F.gelu), width, seed)


def test_centroids_are_means_of_their_neurons() -> None:
    neurons = random_neurons(50)
    fused = fuse_neurons(neurons, 5)
    n = fused.multiplicity
    assert n.sum() == 50
    assert (n > 0).all()
    assert fused.neurons.up.shape == (5, 4)
    torch.testing.assert_close((fused.neurons.up * n[:, None]).sum(0), neurons.up.sum(0))
    torch.testing.assert_close((fused.neurons.up_bias * n).sum(), neurons.up_bias.sum())
    torch.testing.assert_close((fused.neurons.down * n).sum(1), neurons.down.sum(1))


def test_an_empty_cluster_keeps_its_place_and_its_count_of_zero() -> None:
    neurons = random_neurons(3)
    twice = neurons.select(torch.arange(3).repeat(2))
    fused = fuse_neurons(twice, 5)
    assert sorted(fused.multiplicity.tolist()) == [0, 0, 2, 2, 2]
    for index, size in enumerate(fused.multiplicity):
        original = torch.cdist(fused.neurons.up[index][None], neurons.up).argmin()
        if size:
            torch.testing.assert_close(fused.neurons.up[index], neurons.up[original])
            torch.testing.assert_close(fused.neurons.down[:, index], neurons.down[:, original])
        else:
            assert not fused.neurons.up[index].any()


def test_an_empty_cluster_in_the_middle_does_not_shift_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.tensor([0, 0, 2, 2, 2, 3])
    module = import_module("edgefuse.compression.methods.mlp_fusion")  # a function has its name
    monkeypatch.setattr(module, "cluster", lambda *_: labels)
    fused = fuse_neurons(random_neurons(6), 4)
    assert fused.multiplicity.tolist() == [2, 0, 3, 1]


def test_nearly_equal_neurons_neither_fail_nor_warn() -> None:
    neurons = random_neurons(3)
    noise = 1e-9 * torch.arange(60)
    near = Neurons(
        up=neurons.up.repeat(20, 1),
        up_bias=neurons.up_bias.repeat(20) + noise,
        down=neurons.down.repeat(1, 20),
    )
    fused = fuse_neurons(near, 10)
    assert fused.multiplicity.sum() == 60


def test_the_seed_decides() -> None:
    neurons = random_neurons(200)
    first, again, other = (fuse_neurons(neurons, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(first.neurons.up, again.neurons.up)
    assert not torch.equal(first.neurons.up, other.neurons.up)


def test_folding_and_unfolding_undo_one_another() -> None:
    weight, bias = torch.randn(4, 3), torch.randn(4)
    layer = FusedLinear(weight, bias, torch.tensor([3.0, 1.0, 7.0]))
    x = torch.randn(2, 3)
    torch.testing.assert_close(layer.plain()(x), layer(x))
    torch.testing.assert_close(unfold(layer.plain().weight, layer.multiplicity), weight)


def test_a_dead_neuron_unfolds_to_zero_and_not_to_nan() -> None:
    assert unfold(torch.zeros(2, 1), torch.zeros(1)).tolist() == [[0.0], [0.0]]


def test_the_output_error_is_that_of_the_block_on_unpadded_held_out_tokens() -> None:
    model = pico_encoder("bert")
    tokenizer = model_tokenizer("bert")
    unfused = copy.deepcopy(model)
    records = fuse(model, 8, tokenizer=tokenizer, texts=Texts(TEXTS[:6], TEXTS[6:]))
    seen = {mlp.layer: [] for mlp in find_mlps(unfused)}
    with watch_inputs(find_mlps(unfused), lambda mlp, inputs: seen[mlp.layer].append(inputs)):
        for text in TEXTS[6:]:  # one at a time: no padding
            unfused(**pico_tokenizer("bert")(text, return_tensors="pt"))
    for record, before, after in zip(records, find_mlps(unfused), find_mlps(model), strict=True):
        x = torch.cat(seen[before.layer])
        y, y_fused = (
            F.linear(layer.neurons.hidden(x, layer.activation), layer.neurons.down, layer.bias)
            for layer in (before.layer_view(), after.layer_view())
        )
        expected = float((y_fused - y).norm() / y.norm())
        assert record.output_error == pytest.approx(expected, rel=1e-4)
        assert 0.01 < expected < 2


def test_without_text_there_are_no_errors() -> None:
    for record in fuse(pico_encoder("bert"), 8):
        assert (record.output_error, record.sign_ntk_error, record.ntk_error) == (None, None, None)


def test_biases_of_the_output_are_left_alone() -> None:
    model = pico_encoder("bert")
    before = find_mlps(model)[0].layer_view().bias.clone()
    fuse(model, 8)
    assert torch.equal(find_mlps(model)[0].layer_view().bias, before)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4-6", (4, 5, 6)), ("0,2,5-7", (0, 2, 5, 6, 7)), (" 3 ", (3,)), ("2, 1-2", (1, 2))],
)
def test_layers_are_counted_from_zero_with_both_ends(text: str, expected: tuple[int, ...]) -> None:
    assert parse_layers(text, 8) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("8", "no layer 8: the model's MLP layers are 0 to 7"),
        ("4-11", "no layer 11"),
        ("5-4", "runs backwards"),
        ("all", "names no layers"),
        ("", "names no layers"),
        ("1,,2", "names no layers"),
        ("-1", "names no layers"),
    ],
)
def test_layers_that_do_not_hold_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_layers(text, 8)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"width": WIDTH + 1}, f"width of {WIDTH + 1} is above the model's own, {WIDTH}"),
        ({"width": 0}, "width of 0 leaves no MLP"),
        ({"ratio": 0.0}, "ratio of 0 is not above 0"),
        ({"ratio": 1.5}, "ratio of 1.5 is not above 0 and up to 1"),
        (
            {"ratio": 0.01},
            f"ratio of 0.01 leaves nothing of the {WIDTH} neurons",
        ),
        ({"ratio": float("nan")}, "ratio of nan is not above 0"),
        ({"ratio": 0.5, "width": 4}, "say the same thing twice"),
    ],
)
def test_widths_that_do_not_hold_are_refused(request_: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan_layers(find_mlps(pico_encoder("bert")), **request_)


def test_the_plan_counts_what_the_fused_block_has() -> None:
    model = pico_encoder("bert")
    (plan, *_) = plan_layers(find_mlps(model))
    fuse(model, plan.width_after)
    assert plan.width_after == WIDTH // 4
    assert plan.parameters_after == sum(p.numel() for p in parameters(find_mlps(model)[:1]))
