"""finetune, evaluate, predict and convert as a user calls them, on a board without torch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.tokenization import tokenize
from edgefuse_runtime.inference.model import inference_tensors
from edgefuse_runtime.training import finetune as finetune_module
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.run import TrainingSettings
from edgefuse_runtime.training.trained import open_trained
from tests.tiny_bundle import LABELS, FakeEngine, logits_of, make_bundle, write_data

HEAVY = ["torch", "transformers", "onnx", "sklearn", "scipy"]

# The command line with the tiny bundle's engine; afterwards it says what was imported.
SCRIPT = f"""
import sys
import types
import edgefuse_runtime.training.finetune as module

{{engine}}
try:
    from edgefuse.cli import main
    main()
finally:
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    sys.stderr.write(f"heavy: {{{{heavy}}}}\\n")
"""
SLOW_ENGINE = """
import time
import msgspec
import numpy as np
from edgefuse_runtime.engines.engine import Step

class Engine:
    def __init__(self, bundle, **options):
        self.tensors = bundle.trainable()
    def step(self, feeds, learning_rate):
        time.sleep(0.03)
        for tensor in self.tensors.values():
            tensor += np.float32(learning_rate * feeds["attention_mask"].sum())
        return Step(1.0, 1.0)
    def parameters(self):
        return self.tensors
    state = parameters
    def load_state(self, state):
        for name, value in state.items():
            self.tensors[name][...] = value

module.open_engine = Engine
"""


def command(*arguments):
    script = SCRIPT.format(engine=SLOW_ENGINE)
    return [sys.executable, "-c", script, *map(str, arguments)]


def edgefuse(*arguments, stdin=b"", code=0):
    result = subprocess.run(command(*arguments), input=stdin, capture_output=True, check=False)
    assert result.returncode == code, result.stderr.decode()
    errors = result.stderr.decode()
    assert errors.endswith("heavy: []\n")
    return result.stdout.decode(), errors


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with a bundle, data, and a run that learned something."""
    home = tmp_path_factory.mktemp("home")
    bundle = make_bundle(home / "bundle")
    write_data(home / "train.jsonl", 42)
    write_data(home / "valid.jsonl", 20, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "open_engine", FakeEngine)
        finetune(
            bundle,
            home / "run",
            train=home / "train.jsonl",
            valid=home / "valid.jsonl",
            settings=TrainingSettings(epochs=10, learning_rate=0.3, threads=1),
        )
    return home


def test_finetune_prints_one_object_and_no_heavy_import(home, tmp_path):
    out, errors = edgefuse(
        "finetune", home / "bundle", tmp_path / "run", "--train", home / "train.jsonl",
        "--valid", home / "valid.jsonl", "--epochs", 1, "--json",
    )  # fmt: skip
    assert json.loads(out)["steps"] == 11
    assert errors == "heavy: []\n"


def test_finetune_says_what_comes_next(home, tmp_path):
    out, _ = edgefuse(
        "finetune", home / "bundle", tmp_path / "my run", "--train", home / "train.jsonl",
        "--epochs", 1,
    )  # fmt: skip
    assert "peak memory" in out
    assert f"edgefuse predict '{tmp_path / 'my run'}' TEXT" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_command_that_it_names_goes_on(home, tmp_path, number):
    run = tmp_path / "my run"
    arguments = ["finetune", home / "bundle", run, "--train", home / "train.jsonl", "--epochs", 2]
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE)
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_bytes().count(b"\n"):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    errors = process.communicate()[1].decode()
    assert process.returncode == 130
    assert errors.startswith("edgefuse: stopped after step ")
    assert f"Go on with: edgefuse finetune {home / 'bundle'} '{run}' --resume" in errors
    out, _ = edgefuse("finetune", home / "bundle", run, "--resume", "--json")
    assert json.loads(out)["steps"] == 22


def test_evaluate_measures_a_run_and_a_bundle(home):
    figures = json.loads(edgefuse("evaluate", home / "run", home / "valid.jsonl", "--json")[0])
    assert figures["figures"]["accuracy"] > 0.8
    assert figures["rows"] == 20
    untrained = edgefuse("evaluate", home / "bundle", home / "valid.jsonl", "--json")[0]
    assert json.loads(untrained)["figures"]["accuracy"] < figures["figures"]["accuracy"]
    table, _ = edgefuse("evaluate", home / "run", home / "valid.jsonl")
    assert f"{figures['figures']['accuracy']:.1%}" in table


TEXTS = ["please make it dark", "the cosy home", "lamp now"]
EXPECTED = ["light_off", "heat_up", "light_on"]


def test_predict_takes_arguments_a_file_or_standard_input(home, tmp_path):
    arguments, _ = edgefuse("predict", home / "run", *TEXTS)
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS) + "\n\n")
    assert edgefuse("predict", home / "run", "--file", lines)[0] == arguments
    assert edgefuse("predict", home / "run", stdin=lines.read_bytes())[0] == arguments
    rows = [line.split("\t") for line in arguments.splitlines()]
    assert [row[0] for row in rows] == EXPECTED
    assert [row[2] for row in rows] == TEXTS
    assert all(0.5 < float(row[1]) <= 1 for row in rows)
    objects = json.loads(edgefuse("predict", home / "run", *TEXTS, "--json")[0])["predictions"]
    assert [row["label"] for row in objects] == EXPECTED


def test_an_onnx_conversion_runs_in_bare_onnxruntime(home, tmp_path):
    edgefuse("convert", home / "run", tmp_path / "onnx")
    bundle, trained = open_trained(home / "run")
    (row,) = tokenize(bundle.tokenizer(), ["please make it dark"])
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    feed = {"input_ids": row[None].astype(np.int64), "attention_mask": np.ones((1, len(row)), "i8")}
    (logits,) = session.run(None, feed)
    expected = logits_of(bundle, trained, ["please make it dark"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    described = json.loads((tmp_path / "onnx/conversion.json").read_text())
    assert described["task"]["name"] == "text-classification"
    assert described["task"]["labels"] == LABELS
    assert (tmp_path / "onnx/tokenizer.json").is_file()


def test_the_line_that_a_conversion_suggests_runs_as_it_stands(home, tmp_path):
    output = tmp_path / """Ann's "own" model"""
    suggested = edgefuse("convert", home / "run", output)[0].splitlines()[1]
    session = eval(suggested.partition(" = ")[2], {"onnxruntime": onnxruntime})
    assert [value.name for value in session.get_outputs()] == ["logits"]
    suggested = edgefuse("convert", home / "run", output, "--to", "transformers", "--overwrite")[0]
    assert f"from_pretrained({str(output)!r})" in suggested


def test_a_transformers_conversion_has_the_configuration_and_folded_weights(home, tmp_path):
    out = json.loads(
        edgefuse("convert", home / "run", tmp_path / "t", "--to", "transformers", "--json")[0]
    )
    assert out["format"] == "transformers"
    bundle, trained = open_trained(home / "run")
    written = load_file(tmp_path / "t/model.safetensors")
    expected = inference_tensors(bundle, trained)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in written)
    assert json.loads((tmp_path / "t/config.json").read_text())["model_type"] == "tiny"


def test_uneven_widths_are_not_for_plain_transformers(home, tmp_path):
    opened, trained = open_trained(home / "bundle")
    reason = "has one width for all MLPs, and this model has 4, 8"
    model = msgspec.structs.replace(opened.manifest.model, not_plain=reason)
    uneven = Bundle(opened.path, msgspec.structs.replace(opened.manifest, model=model), opened.id)
    with pytest.raises(RunError, match=f"plain transformers {reason}"):
        convert(uneven, trained, tmp_path / "t", to="transformers")
    assert not (tmp_path / "t").exists()


def test_a_conversion_replaces_only_a_conversion(home, tmp_path):
    opened, trained = open_trained(home / "run")
    convert(opened, trained, tmp_path / "out", to="onnx")
    with pytest.raises(OutputError, match="not empty"):
        convert(opened, trained, tmp_path / "out", to="onnx")
    stray = opened.path / "model" / "stray.txt"  # no manifest lists it
    stray.touch()
    convert(opened, trained, tmp_path / "out", to="transformers", overwrite=True)
    stray.unlink()
    assert (tmp_path / "out/config.json").exists()
    assert not any((tmp_path / "out" / name).exists() for name in ("model.onnx", stray.name))


WRONG = {
    "no bundle": (["evaluate", "nowhere", "valid.jsonl"], "nowhere is not there"),
    "no data": (["evaluate", "run", "nowhere.jsonl"], "nowhere.jsonl is not there"),
    "no text": (["predict", "run"], "standard input has no text"),
    "no train": (["finetune", "bundle", "new"], "nothing to train on"),
    "both": (["finetune", "bundle", "run", "--resume", "--overwrite"], "contradict"),
    "not empty": (["finetune", "bundle", "run", "--train", "train.jsonl"], "holds a run already"),
    "settings": (["finetune", "bundle", "run", "--resume", "--epochs", "4"], "epochs 10, not 4"),
    "other bundle": (["evaluate", "run", "valid.jsonl", "--bundle", "other"], "is not the bundle"),
    "two sources": (["predict", "run", "hi", "--file", "x"], "Give one of them"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_and_exit_code_2(home, monkeypatch, case):
    monkeypatch.chdir(home)
    if not (home / "other").exists():
        make_bundle(home / "other", seed=4)
    arguments, sentence = WRONG[case]
    out, errors = edgefuse(*arguments, code=2)
    assert sentence in errors
    assert errors.startswith("edgefuse: ")
    assert errors.count("\n") == 2
    assert out == ""


def test_a_tampered_best_checkpoint_is_refused(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    best = tmp_path / "run/best.safetensors"
    best.write_bytes(best.read_bytes()[:-4])
    with pytest.raises(RunError, match="no whole checkpoint"):
        open_trained(tmp_path / "run", bundle=home / "bundle")
    save_file({"x": np.zeros(2)}, best)
    with pytest.raises(RunError, match="no whole checkpoint"):
        open_trained(tmp_path / "run", bundle=home / "bundle")


def test_help_is_there_for_every_command():
    for name in ("finetune", "evaluate", "predict", "convert"):
        result = subprocess.run(
            [sys.executable, "-m", "edgefuse", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "100"},
        )
        assert "--json" in result.stdout
