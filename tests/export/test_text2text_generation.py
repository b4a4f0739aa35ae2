"""Encoder-decoders as graphs that train on the board, and write what transformers writes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import peft
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from edgefuse.artifact.load import from_pretrained
from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.export import export
from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.bundling.load import load_with_head
from edgefuse.bundling.plan import plan
from edgefuse.compression.compress import compress
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import find_source
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.registry import find_task
from edgefuse_export.tasks.task import ExportTask, ModelFacts
from edgefuse_export.tasks.text2text_generation import WantedText2TextGeneration
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.inference.evaluation import evaluate_model
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.inference.predict import predict
from edgefuse_runtime.training.memory_plan import MemoryPlan
from tests.pico_models import pico_config, pico_tokenizer, save_pico_model
from tests.shared import made_once

KINDS = ("t5", "bart")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

AUTO = "AutoModelForSeq2SeqLM"
ROWS = (
    ("turn on the lamp in the kitchen please", "the lamp in the kitchen is on"),
    ("close the door", "the door is cold"),
    ("stop the music", "less bad music"),
    ("set the light to cold", "please turn off the light in the bedroom and close the door"),
)
OPTIONS = {"device": load_device("rpi5"), "task": WantedText2TextGeneration()}


@cache
def pico(kind: str) -> Path:
    """The directory of a model of one layer in each stack.

    `fused-t5` has half of its neurons, and `untied` a head of its own, as Flan-T5.
    """
    word, _, architecture = kind.partition("-")
    if word == "fused":
        return made_once(
            f"text2text-{kind}",
            lambda output: compress(str(pico(architecture)), output, ratio=0.5),
        )
    if kind == "untied":
        return made_once("text2text-untied", save_untied)
    return made_once(
        f"text2text-{kind}",
        lambda output: save_pico_model(output, kind, auto_class=AUTO, layers=1),
    )


def save_untied(directory: Path) -> None:
    save_pico_model(directory, "t5-gated", auto_class=AUTO, layers=1)
    model = loaded(directory)
    model.lm_head.weight = torch.nn.Parameter(model.shared.weight.detach().flip(0))
    with silence_transformers():
        model.save_pretrained(directory)


@cache
def exported(kind: str, tune: str = "full") -> Bundle:
    """A bundle to read, made once."""
    way, model = find_way(tune), str(pico(kind))
    return open_bundle(
        made_once(
            f"text2text-{kind}-by-{tune}",
            lambda output: export(model, output, tune=way, sequence_length=24, **OPTIONS),
        )
    )


@cache
def rows() -> Path:
    lines = [json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in ROWS]
    return made_once("text2text.jsonl", lambda file: file.write_text("".join(lines)))


def batch(bundle: Bundle) -> Feeds:
    """All rows; prompts and completions are of other lengths, and most have padding."""
    examples = bundle.read(rows()).examples
    return bundle.manifest.task.collate(examples, padding_id=bundle.manifest.padding_id)


@cache
def trained(bundle: Bundle, steps: int = 10) -> tuple[list[float], Tensors]:
    """Losses of some steps on the rows, and what trains afterwards."""
    engine = open_engine(bundle, threads=1)
    losses = [engine.step(batch(bundle), 1e-3).loss for _ in range(steps)]
    return losses, {name: value.copy() for name, value in engine.parameters().items()}


def loaded(directory: Path) -> PreTrainedModel:
    with silence_transformers():
        return transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()


def tensors(feeds: Feeds, *names: str) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(feeds[name]) for name in names}


def test_a_head_of_its_own_and_the_tables_of_both_stacks_have_gradients() -> None:
    bundle = exported("untied")
    names = [parameter.name for parameter in bundle.manifest.parameters]
    assert {"shared.weight", "lm_head.weight"} <= set(names)
    assert not any("embed_tokens" in name for name in names)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.gradients == len(names)
    assert certificate.loss_difference < 1e-4
    assert certificate.output_difference < 1e-4
    assert certificate.worst_gradient_error < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_have_the_losses_of_transformers_own(kind: str) -> None:
    bundle = exported(kind)
    model, feeds, settings = loaded(pico(kind)), batch(bundle), bundle.manifest.optimizer
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others}],
        lr=1e-3,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=0.0,
    )
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(**tensors(feeds, "input_ids", "attention_mask", "labels")).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    np.testing.assert_allclose(trained(bundle)[0], losses, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_what_generate_does_token_for_token(kind: str) -> None:
    bundle = exported(kind)
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    feeds = batch(bundle)
    said = loaded(pico(kind)).generate(
        **tensors(feeds, "input_ids", "attention_mask"),
        num_beams=1,
        do_sample=False,
        max_new_tokens=9,
    )
    tokenizer = bundle.tokenizer()
    expected = tokenizer.decode_batch(said.tolist(), skip_special_tokens=True)
    written = predict(
        bundle,
        model,
        [prompt for prompt, _ in ROWS],
        options=bundle.manifest.task.prediction_options(max_new_tokens=9),
    )
    assert [one.text for one in written] == expected
    assert any(expected)


def test_evaluation_has_the_loss_of_transformers_over_all_tokens() -> None:
    bundle = exported("bart")
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    figures = evaluate_model(bundle, model, bundle.read(rows())).figures
    feeds = batch(bundle)
    with torch.no_grad():
        own = loaded(pico("bart"))
        expected = own(**tensors(feeds, "input_ids", "attention_mask", "labels")).loss.item()
    assert figures["loss"] == pytest.approx(expected, abs=1e-5)
    assert figures["perplexity"] == pytest.approx(np.exp(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "tune"),
    [("bart", "full"), ("untied", "full"), ("fused-t5", "lora")],
)
def test_it_converts_to_what_others_load_with_the_same_logits(
    kind: str, tune: str, tmp_path: Path
) -> None:
    bundle = exported(kind, tune)
    _, after = trained(bundle)
    feeds = batch(bundle)
    names = bundle.manifest.inputs
    expected = InferenceModel(bundle, after, threads=1).run(feeds)["logits"]
    convert(bundle, after, tmp_path / "onnx", to="onnx")
    convert(bundle, after, tmp_path / "plain", to="transformers")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"))
    (logits,) = session.run(["logits"], {name: feeds[name] for name in names})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    plain = [loaded(tmp_path / "plain")]
    assert plain[0].generation_config.decoder_start_token_id == (3 if kind == "bart" else 0)
    if tune == "lora":
        convert(bundle, after, tmp_path / "peft", to="peft")
        plain.append(peft.PeftModel.from_pretrained(loaded(pico(kind)), tmp_path / "peft").eval())
    assert len(plain) == 1 + (tune == "lora")
    for model in plain:
        with torch.no_grad():
            said = model(**tensors(feeds, *names)).logits
        np.testing.assert_allclose(said.numpy(), expected, atol=1e-4)


def test_fusion_finds_the_mlps_of_both_stacks_and_keeps_the_head(tmp_path: Path) -> None:
    record = compress(str(pico("untied")), tmp_path / "fused", ratio=0.5)
    assert [layer.name.partition(".")[0] for layer in record.layers] == ["encoder", "decoder"]
    whole = loaded(pico("untied"))
    assert not torch.equal(whole.lm_head.weight, whole.shared.weight)
    for model in (
        from_pretrained(tmp_path / "fused", transformers.AutoModelForSeq2SeqLM),
        loaded(tmp_path / "fused"),
    ):
        torch.testing.assert_close(model.lm_head.weight, whole.lm_head.weight, rtol=0, atol=0)
        torch.testing.assert_close(model.shared.weight, whole.shared.weight, rtol=0, atol=0)
        assert not model.config.scale_decoder_outputs


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_every_way_is_counted_or_refused_in_a_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = MemoryPlan(rows_at_once=2, kept_layers=0, bytes=0)  # it makes a graph for each way
    monkeypatch.setattr("edgefuse.bundling.plan.predict_memory", lambda *_, **__: none)
    found = {
        way.way: way
        for way in plan(str(pico(kind)), **OPTIONS, batch_size=2, sequence_length=60).ways
    }
    possible = {name for name, way in found.items() if way.possible}
    assert {"full", "full-without-embeddings", "lora", "last-1", "child-d"} <= possible
    assert ("bitfit" in possible) == (kind == "bart")  # T5 has no biases
    assert all(way.flops > 0 for way in found.values() if way.possible)
    assert "no head of its own" in found["head"].reason
    assert "takes no keys and values from outside" in found["prefix"].reason
    assert found.keys() - possible <= {"head", "prefix", "adapter", "bitfit", "mpo"}


def test_relative_positions_reach_far() -> None:
    model = load_with_head(find_source(str(pico("t5"))), task_of("t5"), padding_id=0)
    assert choose_length(5000, longest_sequence(model)) == 5000


def test_the_last_layers_are_the_decoders() -> None:
    model = load_with_head(find_source(str(pico("t5"))), task_of("t5"), padding_id=0)
    find_way("last-1").prepare(model, context_of_shapes(task_of("t5")))
    trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained_names
    assert all(name.startswith("decoder.block.0.") for name in trained_names)


def task_of(kind: str) -> ExportTask:
    return WantedText2TextGeneration().of_model(facts(kind))


def facts(kind: str, **changes: object) -> ModelFacts:
    config = pico_config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    return ModelFacts("pico", config, pico_tokenizer())


def test_a_model_of_one_stack_is_refused_with_the_tasks_that_it_can() -> None:
    with pytest.raises(ModelError, match=r"no pair of an encoder and a decoder.*"):
        WantedText2TextGeneration().of_model(facts("gpt2"))
    with pytest.raises(ModelError, match="--task text2text-generation"):
        find_task("text-classification", {"num_labels": 2}).of_model(facts("t5"))


def test_a_decoder_without_start_or_end_is_refused() -> None:
    for setting in ("decoder_start_token_id", "eos_token_id"):
        with pytest.raises(ModelError, match=f"names no {setting}"):
            WantedText2TextGeneration().of_model(facts("t5", **{setting: None}))
    with pytest.raises(ModelError, match="does not end a text with the token"):
        WantedText2TextGeneration().of_model(facts("t5", eos_token_id=9))
    with pytest.raises(InputError, match="--target-length is 1"):
        WantedText2TextGeneration(target_length=1).of_model(facts("t5"))


def test_completions_longer_than_texts_are_refused() -> None:
    with pytest.raises(InputError, match="--target-length 40 is above the 32 tokens"):
        WantedText2TextGeneration(target_length=40).check_length(32)
    WantedText2TextGeneration(target_length=32).check_length(32)
    WantedText2TextGeneration().check_length(32)


class Translator:
    """A tokenizer that writes a completion in another language than a prompt."""

    def __call__(self, text: str = "", *, text_target: str = "") -> dict[str, list[int]]:
        return {"input_ids": [8 if text else 9, 5, 3]}


def test_a_tokenizer_of_two_languages_is_refused() -> None:
    with pytest.raises(ModelError, match="other tokens of a completion than of a prompt"):
        WantedText2TextGeneration().of_model(ModelFacts("pico", pico_config("bart"), Translator()))


def test_completions_may_be_shorter_than_prompts(tmp_path: Path) -> None:
    wanted = WantedText2TextGeneration(target_length=6)
    bundle = export(
        str(pico("t5")),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=wanted,
        tune="last-1",
        sequence_length=20,
        batch_size=4,
    )
    assert bundle.manifest.task.summary == "text2text-generation, completions of 6 tokens"
    assert batch(bundle)["labels"].shape[1] == 6
    assert batch(bundle)["input_ids"].shape[1] > 6
    drawn = bundle.manifest.task.random_feeds(np.random.default_rng(0), (4, 20), np.arange(9))
    assert drawn["labels"].shape == drawn["decoder_input_ids"].shape == (4, 6)
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    (written,) = predict(bundle, model, ["stop the music"])
    assert written.tokens <= 6


def test_a_run_is_trained_measured_asked_and_timed_by_its_commands(
    tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    bundle, there, data = exported("t5"), tmp_path / "run", rows()
    train = ("--train", data, "--valid", data, "--epochs", 2, "--learning-rate", 1e-2)
    report = json.loads(run("finetune", bundle.path, there, *train, "--json").out)
    before = json.loads(run("evaluate", bundle.path, data, "--json").out)["figures"]
    assert report["figures"]["loss"] < before["loss"]
    written = json.loads(
        run("evaluate", there, data, "--generate", "--max-new-tokens", 4, "--json").out
    )
    assert {"loss", "chrf", "bleu"} <= written["figures"].keys()
    asked = run("predict", there, ROWS[0][0], "--max-new-tokens", 4)
    assert (asked.code, len(asked.out.splitlines())) == (0, 1)
    timed = run("bench", bundle.path, "--output", tmp_path / "report.json")
    assert timed.code == 0, timed.err
