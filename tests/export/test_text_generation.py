"""Language models: exported, trained, written with and converted, beside transformers."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import edgefuse_runtime
from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.export import export
from edgefuse.bundling.load import load_with_head
from edgefuse.compression.compress import compress
from edgefuse.hub.source import find_source
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.tuning.prepare import prepare
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.silence import silence
from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.task import ModelFacts
from edgefuse_export.tasks.text2text_generation import WantedText2TextGeneration
from edgefuse_export.tasks.text_generation import TextGenerationExport, WantedTextGeneration
from edgefuse_export.trace import example
from edgefuse_runtime import Predictor
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.tasks.text_generation import TextGeneration
from tests.pico_causal import save_causal_model
from tests.pico_models import TEXTS, pico_config, pico_tokenizer, save_pico_model
from tests.shared import made_once

LENGTH = 32
TASK = TextGenerationExport(TextGeneration(end_id=0, stop_ids=[0]))
ROWS = [{"prompt": f"{text}:", "completion": f" {len(text.split())} words"} for text in TEXTS]


def model_of(kind: str) -> Path:
    """The directory of a model to read: `llama`, `tied-gpt2`, `fused-mixtral`."""

    def make(directory: Path) -> None:
        word, _, rest = kind.partition("-")
        if word == "fused":
            compress(str(model_of(rest)), directory, ratio=0.25)
        else:
            save_causal_model(directory, rest or word, tied=word == "tied", chats=True)
            settings = directory / "generation_config.json"
            read = json.loads(settings.read_text())
            settings.write_text(json.dumps({**read, "eos_token_id": [0, 7]}))

    return made_once(f"causal-{kind}", make)


def exported(kind: str, tune: str = "full") -> Bundle:
    """A bundle to read, made once."""

    def make(output: Path) -> None:
        export(
            str(model_of(kind)),
            output,
            device=load_device("rpi5"),
            task=WantedTextGeneration(),
            tune=tune,
            batch_size=4,
            sequence_length=LENGTH,
        )

    return open_bundle(made_once(f"causal-{kind}-by-{tune}", make))


def plain(directory: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", experts_implementation=every_expert_by_name()
    )
    return model.eval()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return file


@pytest.mark.parametrize("kind", ["llama", "tied-gpt2", "fused-mixtral"])
def test_the_loss_is_that_of_transformers_whatever_is_tied(kind: str, rows: Path) -> None:
    bundle, model = exported(kind), plain(model_of(kind))
    assert bundle.manifest.certificate.worst_gradient_error < 1e-3
    dataset = bundle.read(rows)
    feeds = bundle.manifest.task.collate(
        dataset.examples[:4], padding_id=bundle.manifest.padding_id
    )
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    with torch.no_grad():
        expected = model(**tensors).loss.item()
    step = open_engine(bundle, threads=1).step(feeds, 1e-3)
    assert step.loss == pytest.approx(expected, rel=1e-5)
    evaluation = edgefuse_runtime.evaluate(bundle.path, rows)
    with torch.no_grad():
        losses, counts = [], []
        for one in dataset.examples:
            alone = bundle.manifest.task.collate([one], padding_id=0)
            losses.append(model(**{k: torch.from_numpy(v) for k, v in alone.items()}).loss.item())
            counts.append(int(one.counted[1:].sum()))
    assert evaluation.figures["loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


def test_tied_embeddings_train_as_one_and_stay_tied(rows: Path, tmp_path: Path) -> None:
    kind = "tied-gpt2"
    bundle = exported(kind)
    (table,) = (p for p in bundle.manifest.parameters if p.shape[0] > 256)
    assert not table.free_rows
    run = tmp_path / "run"
    edgefuse_runtime.finetune(bundle, run, train=rows, settings=settings(learning_rate=1e-2))
    edgefuse_runtime.convert(run, tmp_path / "plain", to="transformers")
    model, trained = plain(tmp_path / "plain"), plain(model_of(kind))
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.weight is embeddings.weight
    assert not torch.equal(embeddings.weight, trained.get_input_embeddings().weight)


def settings(**options: object) -> edgefuse_runtime.TrainingSettings:
    return edgefuse_runtime.TrainingSettings(epochs=1, threads=1, **options)


@pytest.mark.parametrize("kind", ["tied-gpt2", "llama"])
def test_what_is_written_is_what_transformers_writes(kind: str) -> None:
    bundle, model = exported(kind), plain(model_of(kind))
    tokenizer = AutoTokenizer.from_pretrained(model_of(kind))
    prompts = ["turn on", "this film is good and", "a", "stop the music please, it is"]
    written = Predictor(bundle.path).predict(prompts, max_new_tokens=12)
    for prompt, ours in zip(prompts, written, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0]
        theirs = theirs[inputs["input_ids"].shape[1] :]
        assert ours.text == tokenizer.decode(theirs, skip_special_tokens=True)
    pieces = "".join(Predictor(bundle.path).stream(prompts, max_new_tokens=12))
    assert pieces == "".join(f"{one.text}\n" for one in written)


def test_writing_ends_where_the_window_does() -> None:
    (written,) = Predictor(exported("llama").path).predict(["turn on"], max_new_tokens=1000)
    prompt = exported("llama").tokenizer().encode("turn on").ids
    assert written.finish_reason == "length"
    assert written.tokens == LENGTH - len(prompt)


def test_a_seed_writes_the_same_text_alone_and_in_a_batch() -> None:
    predictor = Predictor(exported("llama").path)
    options = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "max_new_tokens": 8}
    batch = predictor.predict(["stop", "a great movie"], seed=3, **options)
    assert predictor.predict(["stop", "a great movie"], seed=3, **options) == batch
    assert "".join(predictor.stream(["stop", "a great movie"], seed=3, **options)) == "".join(
        f"{one.text}\n" for one in batch
    )
    assert predictor.predict(["stop", "a great movie"], seed=4, **options) != batch


def test_evaluate_writes_and_compares_where_it_is_asked_to(run: Callable, rows: Path) -> None:
    bundle = exported("llama")
    assert set(edgefuse_runtime.evaluate(bundle.path, rows).figures) == {"loss", "perplexity"}
    result = run("evaluate", bundle.path, rows, "--generate", "--max-new-tokens", 4, "--json")
    figures = json.loads(result.out)["figures"]
    assert [*figures] == ["loss", "perplexity", "exact_match", "chrf", "bleu"]
    texts = rows.with_name("texts.jsonl")
    texts.write_text('{"text": "turn on the lamp"}\n')
    result = run("evaluate", bundle.path, texts, "--generate")
    assert result.code == 2
    assert "texts.jsonl:1 has no completion to compare with" in result.err


def test_what_was_learned_by_heart_is_written_and_judged(rows: Path, tmp_path: Path) -> None:
    bundle = exported("llama")
    edgefuse_runtime.finetune(
        bundle,
        tmp_path / "run",
        train=rows,
        valid=rows,
        settings=edgefuse_runtime.TrainingSettings(epochs=60, learning_rate=2e-2, threads=1),
    )
    figures = edgefuse_runtime.evaluate(tmp_path / "run", rows, generate=True).figures
    assert figures["loss"] < 0.05
    assert figures["exact_match"] == 1
    assert figures["chrf"] == pytest.approx(100)
    assert figures["bleu"] == 0  # completions of two words have no four in a row


TRAINED = {
    "full": {"lm_head", "embed_tokens", "layers", "norm"},
    "full-without-embeddings": {"layers", "norm"},
    "child-f": {"lm_head", "embed_tokens", "layers", "norm"},
    "last-1": {"layers"},
    "adapter": {"layers"},
    "lora": {"layers"},
    "prefix": {"prefix"},
}


@pytest.mark.parametrize("tune", TRAINED)
def test_what_scores_tokens_is_the_other_end_of_the_embeddings_and_trains_with_them(
    tune: str,
) -> None:
    source = find_source(str(model_of("llama")), None)
    model = load_with_head(source, TASK, padding_id=0)
    prepare(find_way(tune), model, context_of_shapes(TASK))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.removeprefix("model.").partition(".")[0] for name in names} == TRAINED[tune]


def test_biases_train_where_a_language_model_has_some() -> None:
    model = load_with_head(find_source(str(model_of("tied-gpt2")), None), TASK, padding_id=0)
    prepare(find_way("bitfit"), model, context_of_shapes(TASK))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all(name.endswith("bias") for name in names)


@pytest.mark.parametrize("tune", ["lora", "prefix"])
def test_an_adapter_of_a_fused_model_gives_the_same_logits_everywhere(
    tune: str, rows: Path, tmp_path: Path
) -> None:
    bundle, run = exported("fused-llama", tune), tmp_path / "run"
    report = edgefuse_runtime.finetune(
        bundle, run, train=rows, valid=rows, settings=settings(learning_rate=1e-2)
    )
    assert report.figures["loss"] < edgefuse_runtime.evaluate(bundle.path, rows).figures["loss"]
    feeds = {
        name: tensor.numpy()
        for name, tensor in example(TASK, (3, 9), vocabulary=300, seed=5).items()
    }
    expected = Predictor(run)._model.run(feeds)["logits"]
    edgefuse_runtime.convert(run, tmp_path / "onnx", to="onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    inputs = {name: feeds[name] for name in bundle.manifest.inputs}
    np.testing.assert_allclose(session.run(["logits"], inputs)[0], expected, atol=1e-4)
    edgefuse_runtime.convert(run, tmp_path / "peft", to="peft")
    with silence():
        models = [PeftModel.from_pretrained(plain(model_of("fused-llama")), tmp_path / "peft")]
    if tune == "lora":  # plain transformers has no prefixes
        edgefuse_runtime.convert(run, tmp_path / "plain", to="transformers")
        models.append(plain(tmp_path / "plain"))
    for model in models:
        with torch.no_grad():
            logits = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        np.testing.assert_allclose(logits.logits.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "tied-llama"])
def test_a_language_model_has_no_head_to_train_alone(kind: str) -> None:
    with pytest.raises(ModelError, match="no head of its own, and --tune head"):
        exported(kind, "head")


def test_an_encoder_is_refused_with_what_it_can_do(tmp_path: Path) -> None:
    save_pico_model(tmp_path / "bert", "bert", layers=1)
    with pytest.raises(InputError, match=r"in both directions.*--task text-classification"):
        export(
            str(tmp_path / "bert"),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=WantedTextGeneration(),
        )


@pytest.mark.parametrize("fused", [False, True])
def test_a_model_without_its_head_is_refused(fused: bool, tmp_path: Path) -> None:
    model = save_pico_model(tmp_path / "llama", "llama", layers=1)
    if fused:
        compress(str(model), tmp_path / "fused", ratio=0.5)
        model = tmp_path / "fused"
    with pytest.raises(ModelError, match=r"lm_head.weight.*save it again as LlamaForCausalLM"):
        load_with_head(find_source(str(model)), TASK, padding_id=0)


def test_an_xlnet_that_reads_both_ways_is_refused() -> None:
    for attention, refused in (("bi", True), ("uni", False)):
        config = transformers.XLNetConfig(attn_type=attention)
        with pytest.raises(ModelError, match="in both directions") if refused else nullcontext():
            check_architecture(config, "model", TextGeneration)


@pytest.mark.parametrize(("content", "sentence"), [("{", "is broken JSON"), ("[]", "is no object")])
def test_broken_settings_of_generation_are_refused(
    content: str, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "generation_config.json"
    file.write_text(content)
    for task, kind in ((WantedTextGeneration(), "gpt2"), (WantedText2TextGeneration(), "t5")):
        facts = ModelFacts("model", pico_config(kind), pico_tokenizer(kind), lambda _: file)
        with pytest.raises(ModelError, match=f"generation_config.json of model {sentence}"):
            task.of_model(facts)


def test_what_a_model_says_of_its_texts_is_kept(tmp_path: Path) -> None:
    task = exported("llama").manifest.task
    assert (task.end_id, task.stop_ids) == (0, [0, 7])
    assert task.chat_template == AutoTokenizer.from_pretrained(model_of("llama")).chat_template
    edgefuse_runtime.convert(exported("llama").path, tmp_path / "plain", to="transformers")
    assert plain(tmp_path / "plain").generation_config.eos_token_id == [0, 7]
    chat = [{"role": "user", "content": "stop"}]
    (written,) = Predictor(exported("llama").path).predict([{"messages": chat}], max_new_tokens=3)
    assert written.prompt == "stop"


@pytest.mark.slow
def test_a_trained_model_that_was_fused_writes_what_transformers_writes(
    models_directory: Path, tmp_path: Path
) -> None:
    fused = tmp_path / "fused"
    compress(str(models_directory / "tiny-llama"), fused, ratio=0.5)
    bundle = export(
        str(fused),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextGeneration(),
        tune="last-1",
        sequence_length=64,
    )
    model, tokenizer = plain(fused), AutoTokenizer.from_pretrained(fused)
    prompts = ["The president of", "In the third quarter, the company"]
    written = Predictor(bundle.path, threads=1).predict(prompts, max_new_tokens=20)
    for prompt, ours in zip(prompts, written, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=20)[0]
        text = tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert ours.text == text
