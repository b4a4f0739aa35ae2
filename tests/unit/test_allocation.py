"""Widths by sensitivity: the budget of the even plan, spent where it gains most."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgefuse
from edgefuse.compression.allocation import allocate
from edgefuse.compression.calibration import batches_of, collect_inputs
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.effect import measure_effects
from edgefuse.compression.methods.select import residual_curve, select
from edgefuse.compression.plan import plan_layers
from edgefuse.compression.refit import refit
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.neurons import Layer
from edgefuse_devices.errors import InputError
from tests.pico_models import (
    HIDDEN_SIZE,
    TEXTS,
    WIDTH,
    duplicate_neurons,
    model_tokenizer,
    pico_model,
)


def inputs(tokens: int = 300) -> torch.Tensor:
    return torch.randn(tokens, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


ALIKE = dict.fromkeys(range(3), 1.0)


def views(model: torch.nn.Module) -> list[Layer]:
    return [replace(mlp.layer_view(), inputs=inputs()) for mlp in find_mlps(model)]


def calibration_file(folder: Path) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))
    return file


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_curve_is_what_selection_and_refit_leave(kind: str) -> None:
    layer = views(pico_model(kind))[1]
    widths, residuals = residual_curve(layer, 2)
    assert widths[0] == 2
    assert widths[-1] == WIDTH
    assert residuals == sorted(residuals, reverse=True)
    exact = layer.output(inputs())
    for width in (2, 9, 20):
        fused = refit(layer, select(layer, width))
        left = fused.output(inputs(), layer.activation, layer.bias) - exact
        assert float(left.square().sum()) == pytest.approx(residuals[widths.index(width)], rel=0.02)


def test_an_mlp_of_few_neurons_gives_its_share_to_those_of_many() -> None:
    model = pico_model("bert")
    mlps = find_mlps(model)
    many = find_mlps(pico_model("bert"))[0]
    duplicate_neurons(model, [8, 8, 8, 8])
    mlps = (many, *mlps[1:])
    plans = plan_layers(mlps, ratio=0.5)
    found = allocate(mlps, [inputs()] * 3, plans, ALIKE)
    first, *others = (plan.width_after for plan in found)
    assert first > 0.5 * WIDTH
    assert max(others) < 0.5 * WIDTH
    spent = sum(plan.parameters_after for plan in found)
    budget = sum(plan.parameters_after for plan in plans)
    a_neuron = 2 * HIDDEN_SIZE + 1
    assert budget - a_neuron < spent <= budget


@pytest.mark.parametrize("ratio", [1.0, 0.03])
def test_a_budget_for_all_or_for_next_to_nothing_leaves_no_choice(ratio: float) -> None:
    model = pico_model("llama")
    mlps = find_mlps(model)
    plans = plan_layers(mlps, ratio=ratio)
    assert allocate(mlps, [inputs()] * 3, plans, ALIKE) == plans


def test_experts_of_a_stack_share_a_width_and_one_without_tokens_counts_nothing() -> None:
    model = pico_model("mixtral")
    mlps = find_mlps(model)
    seen = [inputs()[:0] if mlp.layer == 0 or mlp.expert == 2 else inputs() for mlp in mlps]
    found = allocate(mlps, seen, plan_layers(mlps, ratio=0.5), ALIKE)
    widths = {layer: {p.width_after for p in found if p.layer == layer} for layer in range(3)}
    assert all(len(shared) == 1 for shared in widths.values())
    assert widths[0] == {8}  # no token reaches it
    assert all(width % 8 == 0 for shared in widths.values() for width in shared)


def test_a_layer_of_more_effect_gets_more() -> None:
    mlps = find_mlps(pico_model("llama"))
    plans = plan_layers(mlps, ratio=0.5)
    alike, more = (
        allocate(mlps, [inputs()] * 3, plans, ALIKE | {1: effect}) for effect in (1.0, 9.0)
    )
    assert more[1].width_after > alike[1].width_after
    assert more[0].width_after < alike[0].width_after


@pytest.mark.parametrize("kind", ["bert", "gpt2", "mixtral", "t5"])
def test_effects_are_of_every_layer_and_the_model_stays_as_it_was(kind: str) -> None:
    model = pico_model(kind)
    mlps = find_mlps(model)
    batches = list(batches_of(model, model_tokenizer(kind), TEXTS))
    seen = collect_inputs(model, model_tokenizer(kind), mlps, TEXTS)
    with torch.no_grad():
        before = model.base_model(**batches[0]).last_hidden_state
        effects = measure_effects(model, mlps, seen, plan_layers(mlps, ratio=0.5), batches)
        assert torch.equal(model.base_model(**batches[0]).last_hidden_state, before)
    assert effects.keys() == {mlp.layer for mlp in mlps}
    assert all(effect > 0 for effect in effects.values())


def test_a_model_of_uneven_widths_is_written_and_loaded(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_compression(str(pico_model("bert")), ratio=0.25)
    text = calibration_file(tmp_path)
    record = compress(
        str(pico_model("bert")),
        tmp_path / "fused",
        ratio=0.25,
        calibration=text,
        allocation="sensitivity",
    )
    widths = [layer.width_after for layer in record.layers]
    assert record.allocation == "sensitivity"
    assert record.even == (len(set(widths)) == 1)
    assert len(set(widths)) > 1
    assert record.parameters_after <= plan.parameters_after
    model = edgefuse.from_pretrained(tmp_path / "fused")
    assert [mlp.width for mlp in find_mlps(model)] == widths
    assert sum(p.numel() for p in model.parameters()) == record.parameters_after


def test_sensitivity_without_text_and_an_unknown_allocation_are_refused(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="sensitivity needs text"):
        compress(str(pico_model("bert")), tmp_path / "fused", allocation="sensitivity")
    with pytest.raises(InputError, match="no allocation 'odd'"):
        compress(str(pico_model("bert")), tmp_path / "fused", allocation="odd")


def test_a_share_of_the_budget_that_the_method_cannot_use_is_refused(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    """An eighth of the width is just enough for rank 1, and sharing it out leaves some less."""
    texts = calibration_file(tmp_path)
    with pytest.raises(InputError, match=r"svd does not suit .* wants a larger --ratio"):
        compress(
            str(pico_model("bert")),
            tmp_path / "out",
            method="svd",
            ratio=0.125,
            calibration=texts,
            allocation="sensitivity",
        )
    assert not (tmp_path / "out").exists()
