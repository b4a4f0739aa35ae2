"""The narrow MLPs are taught together: the whole model says again what it said."""

import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.compression.calibration import batches_of
from edgefuse.compression.distillation import distill
from edgefuse.compression.distillation_settings import (
    ENCODERS,
    LANGUAGE_MODELS,
    settings_of,
)
from edgefuse.compression.methods.mlp_fusion import published
from edgefuse.compression.methods.svd import factorise
from edgefuse.mlps.install import install
from edgefuse.mlps.low_rank import LowRank, install_low_rank
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.neurons import FusedNeurons, Layer
from tests.pico_models import TEXTS, model_tokenizer, pico_model

DISTILLATION = import_module("edgefuse.compression.distillation")
MANY = TEXTS * 30
KINDS = (
    "bert",
    "albert",
    "gpt2",
    "t5-gated",
    "llama",
    "modernbert",
    "mixtral",
    "switch_transformers",
)


def top_of(model: PreTrainedModel) -> Tensor:
    """The last hidden states (tokens, p) of all texts."""
    states = []
    with torch.no_grad():
        for batch in batches_of(model, model_tokenizer(), TEXTS):
            mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
            states.append(model.base_model(**batch).last_hidden_state[mask])
    return torch.cat(states)


def error_at_the_top(
    model: PreTrainedModel, replacements: list[FusedNeurons] | list[LowRank]
) -> float:
    narrow = copy.deepcopy(model)
    mlps = find_mlps(narrow)
    if isinstance(replacements[0], LowRank):
        install_low_rank(mlps, replacements)
    else:
        install(mlps, replacements)
    exact = top_of(model)
    return float((top_of(narrow) - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_says_more_of_what_it_said(kind: str) -> None:
    model = pico_model(kind)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mlps = find_mlps(model)
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    steps = []
    after = distill(
        model,
        model_tokenizer(),
        mlps,
        before,
        MANY,
        settings=ENCODERS,
        seed=0,
        on_progress=lambda _, done, total: steps.append((done, total)),
    )
    assert error_at_the_top(model, after) < 0.97 * error_at_the_top(model, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for one, other, mlp in zip(before, after, mlps, strict=True):
        assert torch.equal(one.multiplicity, other.multiplicity)
        own = other.parameters(mlp.layer_view().bias).values()
        assert not any(tensor.requires_grad for tensor in own)
    assert [done for done, _ in steps] == list(range(1, steps[0][1] + 1))


def divergence(model: PreTrainedModel, narrow: PreTrainedModel) -> float:
    """Mean KL of the next token's distributions, over all tokens of all texts."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in batches_of(model, model_tokenizer(), TEXTS):
            mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
            meant, said = (one(**batch).logits[mask].log_softmax(-1) for one in (model, narrow))
            total += float((meant.exp() * (meant - said)).sum())
            tokens += len(said)
    return total / tokens


def test_what_writes_is_taught_to_write() -> None:
    assert settings_of(pico_model("llama", auto_class="AutoModelForCausalLM")) is LANGUAGE_MODELS
    assert settings_of(pico_model("t5", auto_class="AutoModelForSeq2SeqLM")) is LANGUAGE_MODELS
    assert settings_of(pico_model("llama")) is ENCODERS
    assert settings_of(pico_model("bert", auto_class="AutoModelForMaskedLM")) is ENCODERS


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "t5"])
def test_a_language_model_is_taught_what_comes_next(kind: str) -> None:
    auto_class = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
    model = pico_model(kind, auto_class=auto_class)
    model.get_output_embeddings().weight.data *= 20  # that its distributions are not flat
    mlps = find_mlps(model)
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    found = []
    for weight in (0.0, 1.0):
        settings = replace(LANGUAGE_MODELS, next=weight)
        after = distill(model, model_tokenizer(), mlps, before, MANY, settings=settings, seed=0)
        narrow = copy.deepcopy(model)
        install(find_mlps(narrow), after)
        found.append(divergence(model, narrow))
    assert found[1] < 0.97 * found[0]


def test_how_many_tokens_are_taught_at_once_hardly_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = pico_model("llama", auto_class="AutoModelForCausalLM")
    mlps = find_mlps(model)
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    found = []
    for tokens in (20, 10**6):
        monkeypatch.setattr(DISTILLATION, "_TOKENS_AT_ONCE", tokens)
        after = distill(
            model, model_tokenizer(), mlps, before, MANY, settings=LANGUAGE_MODELS, seed=0
        )
        found.append(error_at_the_top(model, after))
    assert found[0] == pytest.approx(found[1], rel=0.02)
    assert found[0] < 0.97 * error_at_the_top(model, before)


def test_low_rank_mlps_are_taught_too() -> None:
    model = pico_model("bert")
    mlps = find_mlps(model)
    before = [factorise(mlp.layer_view().neurons, 4) for mlp in mlps]
    after = distill(model, model_tokenizer(), mlps, before, MANY, settings=ENCODERS, seed=0)
    assert [one.rank for one in after] == [4] * len(mlps)
    assert error_at_the_top(model, after) < 0.97 * error_at_the_top(model, before)


def test_some_layers_alone_can_be_taught() -> None:
    model = pico_model("bert")
    mlps = find_mlps(model)[1:]
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    after = distill(model, model_tokenizer(), mlps, before, MANY, settings=ENCODERS, seed=0)
    assert not torch.equal(after[0].neurons.up, before[0].neurons.up)


def test_the_same_seed_teaches_the_same() -> None:
    model = pico_model("llama")
    mlps = find_mlps(model)
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    one, other, another = (
        distill(model, model_tokenizer(), mlps, before, TEXTS * 10, settings=ENCODERS, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one[0].neurons.up, other[0].neurons.up)
    assert not torch.equal(one[0].neurons.up, another[0].neurons.up)


def test_a_shared_mlp_is_taught_on_all_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico_model("albert")
    (mlp,) = find_mlps(model)
    rows = []
    output = Layer.output

    def counted(layer: Layer, inputs: Tensor) -> Tensor:
        rows.append(len(inputs))
        return output(layer, inputs)

    monkeypatch.setattr(Layer, "output", counted)
    narrow = [published(mlp.layer_view(), 8, 0)]
    distill(model, model_tokenizer("albert"), [mlp], narrow, TEXTS[:1], settings=ENCODERS, seed=0)
    (batch,) = batches_of(model, model_tokenizer("albert"), TEXTS[:1])
    assert set(rows) == {model.config.num_hidden_layers * int(batch["attention_mask"].sum())}


@pytest.mark.parametrize("rate", [100.0, float("inf")])
def test_what_teaching_makes_worse_is_returned_as_it_was(rate: float) -> None:
    settings = replace(ENCODERS, rate=rate)
    model = pico_model("bert")
    mlps = find_mlps(model)
    before = [published(mlp.layer_view(), 8, 0) for mlp in mlps]
    assert (
        distill(model, model_tokenizer(), mlps, before, TEXTS, settings=settings, seed=0) == before
    )
