"""What is written with keys and values kept is what is written without."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from peft import TaskType
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import edgefuse
import edgefuse_runtime
from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.tuning.prefixes import make_prefixes
from edgefuse_devices.catalog import load_device
from edgefuse_export.losses.decoder import Decoder, takes_cache
from edgefuse_export.stacks.decoding import decoding_graph
from edgefuse_export.stacks.find import find_stack
from edgefuse_export.tasks.text_generation import TextGenerationExport, WantedTextGeneration
from edgefuse_runtime import Predictor
from edgefuse_runtime.bundle.bundle import DECODING, Bundle, open_bundle
from edgefuse_runtime.inference.bound import BoundGraph
from edgefuse_runtime.inference.continuation import Continuation
from edgefuse_runtime.tasks.text_generation import TextGeneration
from tests.pico_causal import causal_model, save_causal_model
from tests.pico_models import TEXTS
from tests.shared import made_once

LENGTH = 64
TASK = TextGenerationExport(TextGeneration(end_id=0, stop_ids=[0]))
PROMPTS = ["turn on", "this film is good and", "a", "stop the music please, it is"]
MESSAGES = ["stop", "and go on"]


def graph_of(model: PreTrainedModel) -> ir.Model | None:
    stack = find_stack(TASK, model, vocabulary=290)
    assert not isinstance(stack, str)
    return decoding_graph(Decoder(model), stack, {})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "qwen2"])
def test_the_likeliest_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Gemma's layers see 8 tokens, or all; GPT-2 knows places by a table, and Llama by angles.

    Qwen's heads share keys and values.
    """
    model = causal_model(kind, layers=2, tied=kind == "gpt2")
    model.set_attn_implementation("eager")
    graph = graph_of(model)
    assert graph is not None
    ir.save(graph, tmp_path / "decode.onnx")
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    continuation = Continuation(
        BoundGraph(tmp_path / "decode.onnx", tensors, threads=1), padding_id=0
    )
    ids = np.random.default_rng(0).integers(2, 290, 13).tolist()
    texts, count = [ids, ids[4:9]], 12
    expected = [
        model.generate(
            torch.tensor([text]), do_sample=False, max_new_tokens=count, eos_token_id=None
        )[0].tolist()
        for text in texts
    ]
    for _ in range(count):
        logits = continuation(texts)
        texts = [[*t, int(row.argmax())] for t, row in zip(texts, logits, strict=True)]
    assert texts == expected


def test_a_layer_that_writes_has_few_operators_and_copies_no_keys() -> None:
    counts = {}
    for layers in (2, 3):
        model = causal_model("qwen2", layers=layers)
        model.set_attn_implementation("eager")
        graph = graph_of(model)
        assert graph is not None
        counts[layers] = Counter(node.op_type for node in graph.graph)
        kept = [value for value in graph.graph.outputs if str(value.name).startswith("present")]
        readers = {node.op_type for value in kept for node in value.consumers()}
        assert readers == {"Transpose", "MatMul"}
    layer = counts[3] - counts[2]
    assert layer["Reshape"] <= 10  # of heads; a product of matrices would need two each
    assert layer.total() < 90


def test_a_model_that_begins_from_prefixes_keeps_them_its_own_way() -> None:
    model = causal_model("llama", layers=2)
    model.set_attn_implementation("eager")
    make_prefixes(model, TaskType.CAUSAL_LM, length=3, projection=0)
    assert graph_of(model) is None


def test_a_model_may_take_no_cache() -> None:
    assert takes_cache(causal_model("llama"))
    assert not takes_cache(torch.nn.Linear(2, 2))


def fused() -> Path:
    def make(directory: Path) -> None:
        source = made_once(
            "causal-llama-of-two", lambda d: save_causal_model(d, layers=2, chats=True)
        )
        compress(str(source), directory, ratio=0.5)

    return made_once("causal-fused-llama-of-two", make)


def bundle() -> Bundle:
    """A fused model with LoRA: P is folded, and updates are merged."""

    def make(output: Path) -> None:
        export(
            str(fused()),
            output,
            device=load_device("rpi5"),
            task=WantedTextGeneration(),
            tune="lora",
            batch_size=4,
            sequence_length=LENGTH,
            engine="onnxruntime-layers",
        )

    return open_bundle(made_once("causal-fused-llama-in-layers", make))


def anew() -> Predictor:
    """The bundle's model, which reads every text as a whole."""
    predictor = Predictor(bundle().path, threads=1)
    predictor._model.next_logits = lambda: predictor._model.read
    return predictor


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    pairs = ({"prompt": f"{text[:12]}:", "completion": f" {len(text)} letters"} for text in TEXTS)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    return file


@pytest.mark.slow
def test_a_bundle_writes_as_it_does_without_what_it_keeps(rows: Path) -> None:
    assert DECODING in bundle().manifest.files
    kept, options = Predictor(bundle().path, threads=1), {"max_new_tokens": 12}
    written = kept.predict(PROMPTS, **options)
    assert written == anew().predict(PROMPTS, **options)
    assert "".join(kept.stream(PROMPTS, **options)) == "".join(f"{one.text}\n" for one in written)
    model = edgefuse.from_pretrained(fused(), AutoModelForCausalLM).eval()
    edgefuse.fold(model)
    tokenizer = AutoTokenizer.from_pretrained(fused())
    for prompt, ours in zip(PROMPTS, written, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(**inputs, do_sample=False, **options)[0]
        theirs = theirs[inputs["input_ids"].shape[1] :]
        assert ours.text == tokenizer.decode(theirs, skip_special_tokens=True)
    drawn = {**options, "temperature": 1.0, "top_k": 20, "seed": 3}
    assert kept.predict(PROMPTS, **drawn) == anew().predict(PROMPTS, **drawn)
    assert kept.predict(PROMPTS, **drawn) != written
    judged = kept.evaluate(rows, generate=True, max_new_tokens=6).figures
    assert judged == pytest.approx(
        anew().evaluate(rows, generate=True, max_new_tokens=6).figures, rel=1e-5
    )


@pytest.mark.slow
def test_a_run_writes_with_what_it_learned(rows: Path, tmp_path: Path) -> None:
    settings = edgefuse_runtime.TrainingSettings(epochs=1, learning_rate=2e-2, threads=1)
    edgefuse_runtime.finetune(bundle(), tmp_path / "run", train=rows, settings=settings)
    predictor, options = Predictor(tmp_path / "run", threads=1), {"max_new_tokens": 8}
    written = predictor.predict(PROMPTS, **options)
    assert written != Predictor(bundle().path, threads=1).predict(PROMPTS, **options)
    predictor._model.next_logits = lambda: predictor._model.read
    assert written == predictor.predict(PROMPTS, **options)


@pytest.mark.slow
def test_what_is_converted_writes_by_itself_with_the_names_of_optimum(tmp_path: Path) -> None:
    (written,) = Predictor(bundle().path, threads=1).predict(PROMPTS[:1], max_new_tokens=6)
    edgefuse_runtime.convert(bundle().path, tmp_path / "onnx")
    assert (tmp_path / "onnx" / "config.json").is_file()
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model_with_past.onnx"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    ids = tokenizer(PROMPTS[0])["input_ids"]
    shapes = {value.name: value.shape for value in session.get_inputs()}
    tokens = ["input_ids", "attention_mask", "position_ids"]
    parts = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert [*shapes] == [*tokens, *(f"past_key_values.{part}" for part in parts)]
    assert [one.name for one in session.get_outputs()] == [
        "logits", *(f"present.{part}" for part in parts)
    ]  # fmt: skip
    past = {
        name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in shapes.items()
        if name not in tokens
    }
    new, made = ids, []
    for _ in range(written.tokens):
        total = len(ids) + len(made)
        batch = [new, [1] * total, [*range(total - len(new), total)]]
        feeds = {name: np.array([one]) for name, one in zip(tokens, batch, strict=True)}
        logits, *present = session.run(None, {**feeds, **past})
        past = dict(zip(past, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        made += new
    assert tokenizer.decode(made, skip_special_tokens=True) == written.text


def chat(
    run: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
    said: bytes,
    *options: object,
) -> SimpleNamespace:
    stdin = SimpleNamespace(isatty=lambda: False, buffer=iter(said.splitlines(keepends=True)))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        return run("chat", bundle().path, *options)


@pytest.mark.slow
def test_a_chat_answers_line_by_line_behind_all_that_was_said(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--system", "be short", "--max-new-tokens", 3)
    predictor = anew()
    conversation = predictor.conversation(system="be short", max_new_tokens=3)
    expected = "".join(f"{''.join(conversation.answer(text))}\n" for text in MESSAGES[:1])
    result = chat(run, monkeypatch, b"stop\n\n/exit\nand go on\n", *options)
    assert (result.code, result.out) == (0, expected)
    assert chat(run, monkeypatch, b"stop", *options).out == expected


@pytest.mark.slow
def test_a_chat_that_is_too_long_or_an_option_that_does_not_hold_is_refused(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chat(run, monkeypatch, b"x" * 200)
    assert result.code == 2
    assert "The conversation has a prompt of" in result.err
    assert "leaves nothing of the 64" in result.err
    assert chat(run, monkeypatch, b"stop", "--stop", "").code == 2
