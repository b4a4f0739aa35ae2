"""Folders that hold something else than a model whose files are whole: called what they are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgefuse
from edgefuse.bundling.description import describe
from edgefuse.bundling.source import find_origin
from edgefuse.compression.compress import compress
from edgefuse.hub.sentence_modules import copy_sentence_modules
from edgefuse.hub.source import ModelSource, find_source
from edgefuse_devices.errors import ModelError
from tests.pico_models import TEXTS

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

PicoModel = Callable[..., Path]
Run = Callable[..., SimpleNamespace]


def copied(model: Path, folder: Path, file: str = "config.json", **change: object) -> Path:
    """A copy of a model with other entries in a file of JSON."""
    shutil.copytree(model, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    "case",
    [
        (
            "config.json",
            {"model_type": "of-mine", "auto_map": {"AutoConfig": "configuration_mine.MyConfig"}},
        ),
        (
            "tokenizer_config.json",
            {
                "tokenizer_class": "MyTokenizer",
                "auto_map": {"AutoTokenizer": [None, "mine.MyTokenizer"]},
            },
        ),
    ],
)
def test_code_that_a_model_brings_is_neither_run_nor_asked_about(
    case: tuple[str, dict[str, object]],
    pico_model: PicoModel,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, change = case
    model = copied(pico_model("bert"), tmp_path / "model", file, **change)
    for module in ("configuration_mine", "modeling_mine", "mine"):
        (model / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    for command in (
        ("compress", model, tmp_path / "out", "--json"),
        ("export", model, tmp_path / "out", "--device", "rpi5", "--num-labels", 2, "--json"),
        ("plan", model, "--device", "rpi5", "--json"),
    ):
        result = run(*command)
        assert result.code == 2
        assert f"brings Python code of its own (auto_map in {file})" in result.err
        assert "auto_map" not in result.out
    with pytest.raises(ModelError, match="brings Python code of its own"):
        edgefuse.from_pretrained(model)
    assert not (tmp_path / "ran").exists()


def test_code_that_lies_beside_an_architecture_of_transformers_is_not_run(
    pico_model: PicoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {"auto_map": {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}}
    model = copied(pico_model("bert"), tmp_path / "model", **change)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": [None, "mine.MyTokenizer"]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    edgefuse.compress(model, tmp_path / "fused")
    assert edgefuse.from_pretrained(tmp_path / "fused").config.model_type == "bert"
    assert not (tmp_path / "ran").exists()


def test_a_model_in_a_subfolder_is_named(pico_model: PicoModel, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    shutil.copytree(pico_model("bert"), tmp_path / "0_Transformer")
    with pytest.raises(ModelError, match="its folder 0_Transformer holds a model") as caught:
        find_source(str(tmp_path))
    assert str(tmp_path / "0_Transformer") in caught.value.hint


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_one(
    file: str, pico_model: PicoModel, tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("bert"), tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(POINTER)  # is not needed beside safetensors
    find_source(str(model))
    (model / file).write_bytes(POINTER)
    with pytest.raises(ModelError, match=rf"{file} is a git-lfs pointer") as caught:
        edgefuse.from_pretrained(model)
    assert "lfs pull" in caught.value.hint


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_wrong_vocab_size_is_called_one(
    kind: str, pico_model: PicoModel, tmp_path: Path, run: Run
) -> None:
    model = copied(pico_model(kind), tmp_path / "model", vocab_size=99)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    for command in (
        ("compress", model, tmp_path / "out"),
        ("compress", model, tmp_path / "out", "--calibration", texts),
        ("export", model, tmp_path / "out", "--device", "rpi5", "--num-labels", 2),
    ):
        result = run(*command)
        assert result.code == 2
        assert "has embeddings for 127 tokens, and a vocab_size of 99 in its" in " ".join(
            result.err.split()
        )
    with pytest.raises(ModelError, match="vocab_size of 99"):
        edgefuse.from_pretrained(model)
    edgefuse.from_pretrained(model, ignore_mismatched_sizes=True)


def test_other_sizes_are_named_by_their_tensor(pico_model: PicoModel, tmp_path: Path) -> None:
    model = copied(pico_model("bert"), tmp_path / "model", intermediate_size=48)
    with pytest.raises(ModelError, match=r"of other sizes .*dense\.bias is 32, not 48"):
        edgefuse.from_pretrained(model)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mpt", "has no setting for the width of a mpt model's MLPs, here 16"),
        ("bert", "has one width for all MLPs, and this model has 16, 32"),
    ],
)
def test_what_keeps_plain_transformers_from_a_fused_model_is_said_as_it_is(
    kind: str, reason: str, pico_model: PicoModel, tmp_path: Path
) -> None:
    layers = None if kind == "mpt" else "0"
    compress(str(pico_model(kind)), tmp_path / "fused", width=16, layers=layers)
    origin = find_origin(str(tmp_path / "fused"), None)
    model = edgefuse.from_pretrained(tmp_path / "fused")
    assert describe(origin, model, parameters=1).not_plain == reason


@pytest.mark.parametrize(
    "path", ["../up", "in/../../up", "/up", r"in\..\..\up", "C:/up", "//up/up"]
)
def test_modules_outside_of_a_models_folder_are_not_copied(path: str, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "a" / "b" / "output"
    source.mkdir()
    output.mkdir(parents=True)
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": path}]
    (source / "config.json").write_text("{}")
    (source / "modules.json").write_text(json.dumps(modules))
    before = {*tmp_path.rglob("*")}
    copy_sentence_modules(ModelSource(str(source), "source", None), output)
    made = {file.relative_to(output).as_posix() for file in {*tmp_path.rglob("*")} - before}
    assert made == {"1_Pooling", "modules.json"}
