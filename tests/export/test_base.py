"""The frozen base in 8 and 4 bits: exported, trained, evaluated and converted."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import edgefuse_runtime
from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.export import export
from edgefuse.bundling.load import load_with_head
from edgefuse.hub.source import find_source
from edgefuse.tuning.prepare import prepare
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_export.silence import silence
from edgefuse_export.stacks import few_bits
from edgefuse_export.tasks.text_generation import TextGenerationExport, WantedTextGeneration
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.graph.base import BLOCK, Precision, in_floats
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.tasks.text_generation import TextGeneration
from tests.pico_causal import save_causal_model
from tests.pico_models import TEXTS
from tests.shared import made_once

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

HIDDEN, VOCABULARY, RANK = 64, 300, 2
TASK = TextGenerationExport(TextGeneration(end_id=0, stop_ids=[0]))
PRECISIONS: tuple[Precision, ...] = ("int8", "int4")
EVERY = pytest.mark.parametrize("precision", PRECISIONS)
SMALL = {"q_proj", "k_proj", "v_proj", "o_proj"}  # of too few rows, or of half a block
STEPS, RATE = 10, 1e-3


@cache
def model_directory() -> Path:
    """A llama of two layers whose head is its embedding."""
    return made_once(
        "causal-for-base",
        lambda output: save_causal_model(output, tied=True, layers=2, hidden_size=HIDDEN),
    )


@cache
def exported(precision: Precision) -> Bundle:
    """A bundle to read, whose head is read in parts."""

    def make(output: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(few_bits, "LARGEST", 100 * HIDDEN)
            export(
                str(model_directory()),
                output,
                device=load_device("rpi5"),
                task=WantedTextGeneration(),
                tune=find_way("lora", {"lora_rank": RANK}),
                engine="onnxruntime-layers",
                base=precision,
                batch_size=4,
                sequence_length=32,
            )

    return open_bundle(made_once(f"causal-base-{precision}", make))


def batch(seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    return TASK.task.random_feeds(rng, (4, 9), np.arange(VOCABULARY), padded=True)


@cache
def trained(precision: Precision) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of some steps, and what trained."""
    engine = open_engine(exported(precision), threads=1)
    losses = [engine.step(batch(step), RATE).loss for step in range(STEPS)]
    return losses, {name: value.copy() for name, value in engine.parameters().items()}


def float_base(precision: Precision, output: Path) -> Path:
    """The model that codes and scales stand for, as transformers loads it."""
    bundle = exported(precision)
    convert(bundle, bundle.trainable(), output, to="transformers")
    return output


def plain(directory: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager"
    )
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module, feeds: Feeds) -> np.ndarray:
    given = {name: torch.from_numpy(feeds[name]) for name in TASK.inputs}
    found: np.ndarray = model(**given).logits.numpy()
    return found


def kept(bundle: Bundle) -> set[str]:
    """Names of the matrices that are in few bits."""
    return {n.removesuffix(".quantized") for n in bundle.frozen if n.endswith(".quantized")}


@EVERY
def test_the_file_holds_every_matrix_of_whole_blocks_in_few_bits(precision: Precision) -> None:
    bundle, floats = exported(precision), load_file(model_directory() / "model.safetensors")
    matrices = {n for n, t in floats.items() if t.ndim == 2 and n.split(".")[-2] not in SMALL}
    assert kept(bundle) == matrices
    bits = {"int8": 8, "int4": 4}[precision]
    for name in matrices:
        codes, scale = bundle.frozen[f"{name}.quantized"], bundle.frozen[f"{name}.scale"]
        assert codes.nbytes == floats[name].size * bits / 8
        assert scale.nbytes == floats[name].size / BLOCK * 2
    for name in floats.keys() - matrices:
        np.testing.assert_array_equal(bundle.frozen[name], floats[name])
    stored = sum(tensor.nbytes for tensor in bundle.frozen.values())
    assert bundle.manifest.predicted_memory.frozen == stored
    assert bundle.manifest.base is not None
    assert bundle.manifest.base.matrices == len(matrices)


@EVERY
def test_the_certificate_is_torchs_and_the_record_says_how_far_from_float(
    precision: Precision, tmp_path: Path
) -> None:
    bundle = exported(precision)
    certificate, base = bundle.manifest.certificate, bundle.manifest.base
    assert certificate is not None
    assert base is not None
    assert certificate.loss_difference < 1e-4
    assert certificate.worst_gradient_error < 1e-4
    assert base.precision == precision
    rng = np.random.default_rng(0)
    feeds = TASK.task.random_feeds(rng, (4, 64), np.arange(VOCABULARY), padded=True)
    own, other = plain(model_directory()), plain(float_base(precision, tmp_path / "base"))
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    with torch.no_grad():
        assert base.float_loss == pytest.approx(own(**tensors).loss.item(), rel=1e-5)
        assert base.loss == pytest.approx(other(**tensors).loss.item(), rel=1e-5)
    expected, found = logits(own, feeds), logits(other, feeds)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert base.output_error == pytest.approx(error, rel=1e-3)
    assert 0 < base.output_error < {"int8": 0.05, "int4": 0.6}[precision]


@EVERY
def test_ten_steps_are_torchs_of_the_same_base_in_float(
    precision: Precision, tmp_path: Path
) -> None:
    bundle = exported(precision)
    source = find_source(str(float_base(precision, tmp_path / "base")))
    model = load_with_head(source, TASK, padding_id=0)
    prepare(find_way("lora", {"lora_rank": RANK}), model, context_of_shapes(TASK))
    with torch.no_grad():
        for name, start in bundle.trainable().items():
            model.get_parameter(name).copy_(torch.from_numpy(start))
    learned = [model.get_parameter(parameter.name) for parameter in bundle.manifest.parameters]
    settings = bundle.manifest.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [tensor], "weight_decay": settings.weight_decay if p.decay else 0.0}
            for p, tensor in zip(bundle.manifest.parameters, learned, strict=True)
        ],
        lr=RATE,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    expected = []
    for step in range(STEPS):
        feeds = [torch.from_numpy(batch(step)[n]) for n in (*TASK.inputs, *TASK.targets)]
        loss, *_ = TASK.loss(model)(*feeds)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, settings.max_gradient_norm)
        optimizer.step()
        expected.append(loss.item())
    losses, values = trained(precision)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert np.ptp(losses) > 0.01
    for name, value in values.items():
        np.testing.assert_allclose(value, model.get_parameter(name).detach().numpy(), atol=1e-4)


@EVERY
def test_converted_it_gives_the_same_logits_everywhere(
    precision: Precision, tmp_path: Path
) -> None:
    bundle, (_, values) = exported(precision), trained(precision)
    feeds = batch(99)
    expected = InferenceModel(bundle, values, threads=1).run(feeds)["logits"]
    for to in ("peft", "transformers", "onnx"):
        convert(bundle, values, tmp_path / to, to=to)
    with silence():
        base = plain(float_base(precision, tmp_path / "base"))
        adapted = PeftModel.from_pretrained(base, tmp_path / "peft")
    for model in (adapted, plain(tmp_path / "transformers")):
        np.testing.assert_allclose(logits(model, feeds), expected, atol=1e-4)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    given = {name: feeds[name] for name in bundle.manifest.inputs}
    np.testing.assert_allclose(session.run(["logits"], given)[0], expected, atol=1e-4)
    sizes = {to: (tmp_path / to / "model.safetensors").stat().st_size for to in ("onnx", "base")}
    assert sizes["onnx"] < 0.7 * sizes["base"]
    before = InferenceModel(bundle, bundle.trainable(), threads=1).run(feeds)["logits"]
    assert np.abs(expected - before).max() > 0.01


@EVERY
def test_what_writes_multiplies_by_the_codes(precision: Precision) -> None:
    """Each product is that with the floats, but for its factor on the left in 8 bits."""
    bundle = exported(precision)
    assert bundle.manifest.base is not None
    assert {*bundle.manifest.base.multiplied} == kept(bundle)  # the head is the embedding
    graph = onnx.load(bundle.path / "decode.onnx", load_external_data=False).graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == len(kept(bundle))
    assert {one.i for node in products for one in node.attribute if one.name == "bits"} == {
        {"int8": 8, "int4": 4}[precision]
    }
    names = {value.name for value in graph.input if value.name.endswith((".quantized", ".scale"))}
    assert names == {f"model.embed_tokens.weight{end}" for end in (".quantized", ".scale")}

    model = InferenceModel(bundle, trained(precision)[1], threads=1)
    written = model.continuation()
    for length in (5, 6, 9):
        texts = np.random.default_rng(0).integers(0, VOCABULARY, (3, 9))[:, :length].tolist()
        expected = model.read(texts)
        error = np.linalg.norm(written(texts) - expected) / np.linalg.norm(expected)
        assert 0 < error < 0.03


@EVERY
def test_a_run_learns_and_is_resumed_and_evaluated(
    precision: Precision, tmp_path: Path, run: Callable
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps({'text': text})}\n" for text in TEXTS))
    settings = edgefuse_runtime.TrainingSettings(epochs=4, learning_rate=1e-2, threads=1)
    bundle = exported(precision)
    report = edgefuse_runtime.finetune(
        bundle, tmp_path / "run", train=rows, valid=rows, settings=settings
    )
    assert report.figures["loss"] < edgefuse_runtime.evaluate(bundle.path, rows).figures["loss"]
    evaluated = edgefuse_runtime.evaluate(tmp_path / "run", rows).figures
    assert evaluated["loss"] == pytest.approx(report.figures["loss"], rel=1e-5)
    assert run("doctor", bundle.path).code == 0


def test_4_bits_take_half_of_8_and_the_floats_are_near() -> None:
    codes = {}
    for precision in PRECISIONS:
        frozen = exported(precision).frozen
        codes[precision] = sum(t.nbytes for n, t in frozen.items() if n.endswith(".quantized"))
        floats, original = in_floats(frozen), load_file(model_directory() / "model.safetensors")
        errors = [
            np.linalg.norm(floats[name] - original[name]) / np.linalg.norm(original[name])
            for name in kept(exported(precision))
        ]
        assert max(errors) < {"int8": 0.01, "int4": 0.1}[precision]
    assert codes["int4"] == codes["int8"] / 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--base", "int3"], "There is no precision of a base 'int3'"),
        (["--base", "int8", "--engine", "onnxruntime"], "keeps every matrix in float32"),
        (
            ["--base", "int4", "--engine", "onnxruntime-layers", "--tune", "full"],
            "--base int4 keeps matrices in 4 bits that do not train, and --tune full leaves none",
        ),
    ],
)
def test_what_cannot_be_kept_in_few_bits_is_refused(
    options: list[str], sentence: str, tmp_path: Path, run: Callable
) -> None:
    output = tmp_path / "bundle"
    result = run(
        *("export", model_directory(), output, "--device", "rpi5"),
        *("--task", "text-generation", *options),
    )
    assert result.code == 2
    assert sentence in " ".join(result.err.split())
    assert not output.exists()
