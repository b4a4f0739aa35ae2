"""Text for compression: split, cut, read once, and enough of it."""

import pytest
import torch
from torch import Tensor

from edgefuse.compression.calibration import (
    MAX_TOKENS,
    Texts,
    collect_inputs,
    inputs_to_fit,
    split_texts,
)
from edgefuse.compression.catalog import find_method
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.kept_inputs import KeptInputs
from edgefuse.compression.plan import plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.mlp import find_mlps
from edgefuse_devices.errors import DataError, ModelError
from tests.pico_models import ENCODER_DECODERS, HIDDEN_SIZE, TEXTS, model_tokenizer, pico_model

KINDS = ("bert", "albert", "gpt2", "llama", "mixtral", "t5")
FITTED = Recipe(find_method("mlp-fusion"), refits=True, teaches=True, seed=0)


def kept(inputs: list[Tensor]) -> KeptInputs:
    found = KeptInputs([one.shape[1] for one in inputs])
    for index, one in enumerate(inputs):
        found.append(index, one)
    return found


def zeros(counts: list[int]) -> KeptInputs:
    return kept([torch.zeros(count, HIDDEN_SIZE) for count in counts])


@pytest.mark.parametrize("count", [2, 9, 10, 25, 100])
def test_every_tenth_text_is_held_out_and_at_least_one(count: int) -> None:
    texts = [f"text {index}" for index in range(count)]
    parts = split_texts(texts)
    assert sorted([*parts.seen, *parts.held_out]) == sorted(texts)
    assert parts.held_out == (texts[9::10] if count >= 10 else texts[-1:])


def test_one_text_is_refused() -> None:
    with pytest.raises(DataError, match="One calibration text is too few"):
        split_texts(["alone"])


def test_what_is_held_out_changes_the_errors_and_nothing_else() -> None:
    found = []
    for held_out in (TEXTS[8:], TEXTS[7:9]):
        model = pico_model("llama")
        plans = plan_layers(find_mlps(model), width=8)
        texts = Texts(TEXTS[:7], held_out)
        records = fuse_model(model, plans, FITTED, tokenizer=model_tokenizer(), texts=texts)
        found.append((model.state_dict(), [record.output_error for record in records]))
    (weights, errors), (others, other_errors) = found
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())
    assert not set(errors) & set(other_errors)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_those_of_the_texts_one_at_a_time(kind: str) -> None:
    model, tokenizer = pico_model(kind), model_tokenizer("distilbert")
    mlps = find_mlps(model)
    expected: dict[str, list[Tensor]] = {mlp.name: [] for mlp in mlps}
    with watch_inputs(mlps, lambda mlp, x: expected[mlp.name].append(x)), torch.no_grad():
        for text in TEXTS:
            token_ids = tokenizer.wrapper(text, return_tensors="pt")["input_ids"]
            decoder = {"decoder_input_ids": token_ids} if kind in ENCODER_DECODERS else {}
            model(input_ids=token_ids, **decoder)
    for mlp, inputs in zip(mlps, collect_inputs(model, tokenizer, mlps, TEXTS), strict=True):
        wanted = torch.cat([*expected[mlp.name], torch.zeros(0, HIDDEN_SIZE)])
        assert inputs.shape == wanted.shape
        # Whatever the order of tokens: column by column.
        columns, wanted_columns = inputs.sort(dim=0).values, wanted.sort(dim=0).values
        torch.testing.assert_close(columns, wanted_columns, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "longest"), [("bert", 62), ("gpt2", 62), ("t5", MAX_TOKENS)])
def test_texts_longer_than_the_model_takes_are_cut(kind: str, longest: int) -> None:
    model, tokenizer = pico_model(kind), model_tokenizer("distilbert")
    tokenizer.wrapper.model_max_length = int(1e30)  # as transformers says where it does not know
    long = ["door " * 500, "warm"]
    (inputs, *_) = collect_inputs(model, tokenizer, find_mlps(model), long)
    assert len(inputs) == longest + 3
    tokenizer.wrapper.model_max_length = 10
    (inputs, *_) = collect_inputs(model, tokenizer, find_mlps(model), long)
    assert len(inputs) == 10 + 3


def test_a_tokenizer_without_a_padding_token_gives_the_same_inputs() -> None:
    model, tokenizer = pico_model("gpt2"), model_tokenizer("gpt2")
    without = model_tokenizer("gpt2")
    without.wrapper.pad_token = None
    assert without.padding_id is None
    mlps = find_mlps(model)
    both = [collect_inputs(model, one, mlps, TEXTS) for one in (tokenizer, without)]
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


def test_padding_may_have_a_number_that_the_model_has_no_embedding_for() -> None:
    model, tokenizer = pico_model("llama"), model_tokenizer()
    mlps = find_mlps(model)
    expected = collect_inputs(model, tokenizer, mlps, TEXTS)
    tokenizer.wrapper.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.padding_id == model.get_input_embeddings().num_embeddings
    found = collect_inputs(model, tokenizer, mlps, TEXTS)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_reading_stops_when_there_are_tokens_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefuse.compression.calibration._TOKENS", 300)
    monkeypatch.setattr("edgefuse.compression.calibration._HELD_OUT_TOKENS", 150)
    model, tokenizer = pico_model("bert"), model_tokenizer()
    mlps = find_mlps(model)
    seen = collect_inputs(model, tokenizer, mlps, TEXTS * 20)
    held_out = collect_inputs(model, tokenizer, mlps, TEXTS * 20, held_out=True)
    assert 300 <= len(seen[0]) < 600
    assert 150 <= len(held_out[0]) < 400
    monkeypatch.setattr("edgefuse.compression.calibration._BYTES", 1)
    assert len(collect_inputs(model, tokenizer, mlps, TEXTS * 20)[0]) < 300  # one batch


def test_texts_without_a_token_are_left_out() -> None:
    model, tokenizer = pico_model("bert"), model_tokenizer()
    assert tokenizer.backend is not None
    tokenizer.backend.post_processor = None  # no [CLS] and [SEP], as many decoders
    (some, *_) = collect_inputs(model, tokenizer, find_mlps(model), ["", "warm", " "])
    assert len(some) == 1
    (none, *_) = collect_inputs(model, tokenizer, find_mlps(model), ["", " "])
    assert none.shape == (0, HIDDEN_SIZE)
    with pytest.raises(DataError, match="has 0 tokens, too few to fit the 8 neurons"):
        inputs_to_fit(kept([none]), find_mlps(model)[:1], [8], 2)


def test_experts_need_enough_together_and_one_of_them_may_have_none() -> None:
    mlps = [mlp for mlp in find_mlps(pico_model("mixtral")) if mlp.layer == 1]
    counts = [0, *(40 for _ in mlps[1:])]
    few = [15, *counts[1:]]
    widths = [8] * len(mlps)
    fitted = inputs_to_fit(zeros(few), mlps, widths, 9)
    assert [len(one) for one in fitted] == fitted.counts == counts
    with pytest.raises(DataError, match=r"fit the \d+ neurons of the experts of layer 1"):
        inputs_to_fit(zeros([0, *(8 for _ in mlps[1:])]), mlps, widths, 9)
    with pytest.raises(DataError, match="The tuning text has 24 tokens"):
        inputs_to_fit(zeros([0, *(8 for _ in mlps[1:])]), mlps, widths, 9, called="tuning")


def test_reading_goes_on_past_the_limits_until_a_fit_is_determined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgefuse.compression.calibration._BYTES", 1)
    monkeypatch.setattr("edgefuse.compression.calibration._TOKENS", 1)
    model, tokenizer = pico_model("bert"), model_tokenizer()
    mlps = find_mlps(model)
    widths = [mlp.width * 20 for mlp in mlps]
    seen = collect_inputs(model, tokenizer, mlps, TEXTS * 60, widths=widths)
    assert all(len(one) >= 2 * width for one, width in zip(seen, widths, strict=True))
    assert len(seen[0]) < len(
        collect_inputs(model, tokenizer, mlps, TEXTS * 60, widths=[9**9] * 3)[0]
    )


def test_a_token_beyond_the_embeddings_is_said_to_be_one() -> None:
    model, tokenizer = pico_model("bert"), model_tokenizer()
    tokenizer.wrapper.add_tokens(["lighthouse"])
    with pytest.raises(ModelError, match="and the model has embeddings for"):
        collect_inputs(model, tokenizer, find_mlps(model), ["the lighthouse"])


def test_a_text_that_comes_again_counts_once() -> None:
    parts = split_texts([*TEXTS, *TEXTS])
    assert not set(parts.seen) & set(parts.held_out)
    assert len(parts.seen) + len(parts.held_out) == len(set(TEXTS))
    with pytest.raises(DataError, match="different ones"):
        split_texts(["same", "same"])


def test_an_expert_with_few_tokens_is_fused_by_its_weights() -> None:
    model = pico_model("mixtral")
    mlps = find_mlps(model)
    plans = plan_layers(mlps, width=16)
    few = Recipe(find_method("mlp-fusion"), refits=True, teaches=False, seed=0)
    texts = Texts(TEXTS, TEXTS[:4])
    seen = collect_inputs(model, model_tokenizer(), mlps, texts.seen)
    starved = [mlp for mlp, x in zip(mlps, seen, strict=True) if 0 < len(x) < 32]
    assert starved, "no expert of this model gets few tokens"
    bare = pico_model("mixtral")
    fuse_model(bare, plans, Recipe(find_method("published"), refits=False, teaches=False, seed=0))
    fuse_model(model, plans, few, tokenizer=model_tokenizer(), texts=texts)
    ours, theirs = ({m.name: m for m in find_mlps(one)} for one in (model, bare))
    for mlp in starved:
        one, other = (found[mlp.name].layer_view().neurons for found in (ours, theirs))
        torch.testing.assert_close(one.up, other.up)
