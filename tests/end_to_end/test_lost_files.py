"""What a run has lost, it says, and goes on from what is left."""

import os
import shutil
import stat

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from edgefuse_devices.errors import Interrupted, OutputError, RunError
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.training import finetune as module
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.run import TrainingSettings
from edgefuse_runtime.training.trained import open_trained
from tests.tiny_bundle import FakeEngine, make_bundle, write_data

SETTINGS = TrainingSettings(epochs=3, learning_rate=0.3, save_every=4, threads=1)


class Listener:
    """Stops after some steps, and keeps what is said."""

    def __init__(self, steps=None):
        self.sentences, self.step, self._steps = [], 0, steps

    def on_step(self, record):
        self.step = record.step

    def on_notice(self, sentence):
        self.sentences.append(sentence)

    def __call__(self):
        return self.step == self._steps

    on_start = on_evaluation = on_save = lambda *_: None


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch):
    monkeypatch.setattr(module, "open_engine", FakeEngine)


@pytest.fixture
def folder(tmp_path):
    make_bundle(tmp_path / "bundle")
    write_data(tmp_path / "train.jsonl", 42)
    write_data(tmp_path / "valid.jsonl", 20, seed=1)
    return tmp_path


def train(folder, name="run", settings=SETTINGS, steps=None, **options):
    """Train, or go on; what was said."""
    listener = Listener(steps)
    data = {"train": folder / "train.jsonl", "valid": folder / "valid.jsonl"}
    opened = open_bundle(folder / "bundle")
    ended = {"observer": listener, "stop": listener}
    if steps is None:
        finetune(opened, folder / name, settings=settings, **data, **ended, **options)
    else:
        with pytest.raises(Interrupted):
            finetune(opened, folder / name, settings=settings, **data, **ended, **options)
    return listener.sentences


def flip(file, place=-10):
    raw = bytearray(file.read_bytes())
    raw[place] ^= 0x10
    file.write_bytes(raw)


def same_weights(folder, one="run", other="whole"):
    a, b = (load_file(folder / name / "last.safetensors") for name in (one, other))
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize("harm", [flip, os.unlink, lambda file: file.write_bytes(b"")])
def test_a_lost_checkpoint_is_made_up_for_by_the_one_before(folder, harm):
    train(folder, "whole")
    train(folder, steps=10)
    harm(folder / "run/last.safetensors")
    (sentence,) = train(folder, resume=True)
    assert sentence.endswith("the run goes on from previous.safetensors, after step 8")
    assert same_weights(folder)
    assert len(read_metrics(folder / "run/metrics.jsonl")) == 36


def test_without_any_checkpoint_training_begins_again(folder):
    train(folder, "whole")
    train(folder, steps=10)
    for name in ("last", "previous"):
        flip(folder / f"run/{name}.safetensors")
    (sentence,) = train(folder, resume=True)
    assert "last.safetensors has changed since it was written" in sentence
    assert sentence.endswith("training begins again")
    assert same_weights(folder)


def test_a_lost_best_is_looked_for_among_the_epochs_that_end_from_there_on(folder):
    train(folder, steps=15)
    flip(folder / "run/best.safetensors")
    (sentence,) = train(folder, resume=True)
    assert "best.safetensors has changed" in sentence
    assert "the best epoch is looked for among those that end from now on" in sentence
    open_trained(folder / "run", bundle=folder / "bundle")


@pytest.mark.parametrize("name", ["best.safetensors", "report.json"])
def test_what_a_finished_run_has_lost_is_made_again(folder, name):
    train(folder)
    report = (folder / "run/report.json").read_bytes()
    (folder / "run" / name).write_bytes(b"cut sho")
    assert name in train(folder, resume=True)[0]
    again = (folder / "run/report.json").read_bytes()
    assert msgspec.json.decode(again).keys() == msgspec.json.decode(report).keys()
    open_trained(folder / "run", bundle=folder / "bundle")
    assert train(folder, resume=True) == []


def test_every_flipped_bit_is_seen(folder):
    train(folder, steps=10)
    file = folder / "run/last.safetensors"
    whole, size = file.read_bytes(), file.stat().st_size
    rng = np.random.default_rng(0)
    for place in {*range(0, 200, 7), *rng.integers(0, size, 40).tolist()}:
        flip(file, place)
        shutil.copytree(folder / "run", folder / f"run-{place}")
        assert train(folder, f"run-{place}", resume=True), place
        file.write_bytes(whole)


def test_half_a_line_of_metrics_is_dropped_and_said(folder):
    train(folder, "whole")
    train(folder, steps=10)
    metrics = folder / "run/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    (sentence,) = train(folder, resume=True)
    assert "metrics.jsonl was cut: its last" in sentence
    lines = read_metrics(metrics)
    assert [line.step for line in lines if hasattr(line, "loss")][8:10] == [9, 11]
    assert same_weights(folder)


def test_a_run_without_its_record_is_replaced_on_demand_only(folder):
    train(folder, steps=10)
    (folder / "run/run.json").unlink()
    with pytest.raises(OutputError, match=r"what is left of a run without its run\.json"):
        train(folder)
    with pytest.raises(RunError, match=r"is no run: it has no run\.json"):
        train(folder, resume=True)
    train(folder, overwrite=True)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_what_a_kill_left_of_the_first_file_is_no_run(folder, options):
    (folder / "run").mkdir()
    (folder / "run/.run.json.new").write_text("{")
    (folder / "run/.tmpAb3dE9").write_bytes(b"0" * 100)
    train(folder, **options)
    assert not [path for path in (folder / "run").iterdir() if path.name.startswith(".")]


def test_a_run_is_its_owners_alone(folder):
    train(folder)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "run").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((folder / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "ring"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_what_stands_in_a_files_place_is_refused_and_not_followed(folder, name, kind):
    train(folder, steps=10)
    put(folder, name, kind)
    with pytest.raises(
        (RunError, OutputError), match=rf"{name} cannot be .*: it is .*, and no file"
    ):
        train(folder, resume=True)
    assert (folder / "outside").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["link", "pipe", "ring"])
def test_what_stands_in_a_checkpoints_place_is_a_lost_checkpoint(folder, kind):
    train(folder, "whole")
    train(folder, steps=10)
    put(folder, "last.safetensors", kind)
    (sentence,) = train(folder, resume=True)
    assert "and no file: the run goes on from previous.safetensors" in sentence
    assert (folder / "outside").read_bytes() == b"precious"
    assert same_weights(folder)


def test_a_folder_in_a_checkpoints_place_is_named(folder):
    train(folder, steps=10)
    put(folder, "last.safetensors", "folder")
    with pytest.raises(OutputError, match=r"last\.safetensors cannot be written: .*directory"):
        train(folder, resume=True)


def put(folder, name, kind):
    """Put something else into a file's place."""
    place, outside = folder / "run" / name, folder / "outside"
    outside.write_bytes(b"precious")
    place.unlink()
    match kind:
        case "link":
            place.symlink_to(outside)
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "ring":
            place.symlink_to(name)
