"""`edgefuse check` reads every byte, and says what can be done about what is lost."""

import json

import pytest

import edgefuse_runtime
from edgefuse_devices.errors import InputError
from edgefuse_runtime.training import finetune as module
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.run import TrainingSettings
from tests.tiny_bundle import FakeEngine, make_bundle, write_data

SETTINGS = TrainingSettings(epochs=2, learning_rate=0.3, save_every=4, threads=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A bundle, data, and a run that is finished."""
    monkeypatch.setattr(module, "open_engine", FakeEngine)
    train = write_data(tmp_path / "train.jsonl", 30)
    finetune(make_bundle(tmp_path / "bundle"), tmp_path / "run", train=train, settings=SETTINGS)
    return tmp_path


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


def states(health, *, but="whole"):
    return {file.name: file.state for file in health.files if file.state != but}


@pytest.mark.parametrize(("name", "kind"), [("run", "run"), ("bundle", "bundle")])
def test_what_is_whole_is_whole(folder, name, kind):
    health = edgefuse_runtime.check(folder / name)
    assert (health.kind, health.whole, health.advice) == (kind, True, [])
    assert states(health) == {}
    assert len(health.files) >= 8


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["last"], ["`--resume` goes on from previous.safetensors, after step 12"]),
        (["last", "previous"], ["`--resume` begins again from the first step"]),
        (["best"], ["`--resume` looks for another best.safetensors"]),
        (["previous"], []),
    ],
)
def test_what_resuming_would_do_about_lost_checkpoints(folder, names, advice):
    for name in names:
        flip(folder / f"run/{name}.safetensors")
    health = edgefuse_runtime.check(folder / "run")
    assert states(health) == {f"{name}.safetensors": "broken" for name in names}
    assert not health.whole
    assert len(health.advice) == len(advice)
    assert all(found.startswith(a) for found, a in zip(health.advice, advice, strict=True))


def test_other_files_of_a_run_are_looked_at_too(folder):
    (folder / "run/.last.safetensors.new").write_bytes(b"half")
    (folder / "run/notes.txt").write_text("mine")
    (folder / "run/best.safetensors").unlink()
    metrics = folder / "run/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    (folder / "train.jsonl").write_text("")
    (folder / "bundle/model/config.json").unlink()
    assert states(edgefuse_runtime.check(folder / "run")) == {
        ".last.safetensors.new": "left over",
        "notes.txt": "unlisted",
        "best.safetensors": "missing",
        "metrics.jsonl": "broken",
        "training data": "broken",
        "the bundle": "broken",
    }


def test_a_run_without_its_record_is_one_all_the_same(folder):
    (folder / "run/run.json").unlink()
    health = edgefuse_runtime.check(folder / "run")
    assert states(health) == {"run.json": "missing"}
    assert health.advice == ["Without run.json the run cannot go on: replace it with --overwrite"]


def test_each_file_of_a_bundle_is_named(folder):
    bundle = folder / "bundle"
    flip(bundle / "trainable.safetensors")
    (bundle / "inference.onnx").write_bytes(b"cut")
    (bundle / "tokenizer.json").unlink()
    (bundle / "virus.so").write_bytes(b"")
    health = edgefuse_runtime.check(bundle)
    assert states(health) == {
        "trainable.safetensors": "broken",
        "inference.onnx": "broken",
        "tokenizer.json": "missing",
        "virus.so": "unlisted",
    }
    (bundle / "manifest.json").write_text("{")
    assert states(edgefuse_runtime.check(bundle)) == {"manifest.json": "broken"}


def test_a_model_shows_what_cannot_be_read(folder):
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = (folder / "bundle/trainable.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights)
    assert edgefuse_runtime.check(model).whole
    (model / "model.safetensors").write_bytes(weights[:-1])
    (model / "tokenizer.json").write_text("{")
    assert states(edgefuse_runtime.check(model)) == {
        "model.safetensors": "broken",
        "tokenizer.json": "broken",
    }


@pytest.mark.parametrize("what", ["file", "nothing", "empty"])
def test_what_is_none_of_these_is_refused(tmp_path, what):
    path = tmp_path / what
    if what == "file":
        path.write_text("")
    if what == "empty":
        path.mkdir()
    with pytest.raises(InputError, match="is no run, no bundle and no model"):
        edgefuse_runtime.check(path)


def test_the_command_exits_with_2_if_something_is_lost(folder, run):
    assert run("check", folder / "run").code == 0
    flip(folder / "run/last.safetensors")
    shown = run("check", folder / "run")
    assert shown.code == 2
    assert "is not whole" in shown.out
    assert "goes on from previous.safetensors, after step 12." in shown.out
    assert "1 of" in shown.err
    assert not json.loads(run("check", folder / "run", "--json").out)["whole"]
