"""The board's commands over a bundle that export made: the real graphs, killed and converted."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.hub.silence import silence_transformers
from edgefuse_devices.probe import probe
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.training.trained import open_trained
from tests.tiny_bundle import LABELS, logits_of, write_data

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def edgefuse(*arguments):
    return [sys.executable, "-m", "edgefuse", *map(str, arguments)]


def finish(*arguments):
    result = subprocess.run(
        edgefuse(*arguments), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module", params=["bert-full", "albert-full", "bert-child-f"])
def home(request, pico_model, tmp_path_factory):
    """Fused, exported, and trained without interruption."""
    home = tmp_path_factory.mktemp(request.param)
    architecture, _, tune = request.param.partition("-")
    compress(str(pico_model(architecture)), home / "fused", width=12)
    export(
        str(home / "fused"),
        home / "bundle",
        device=probe(),
        task=WantedTextClassification(labels=LABELS),
        tune=tune,
        batch_size=4,
        sequence_length=16,
    )
    write_data(home / "train.jsonl", 300)
    write_data(home / "valid.jsonl", 40, seed=1)
    finish(*finetune(home, home / "run"))
    return home


def finetune(home, run):
    return (
        "finetune", home / "bundle", run, "--train", home / "train.jsonl", "--valid",
        home / "valid.jsonl", "--epochs", 2, "--save-every", 20, "--learning-rate", 1e-3,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_like_a_whole_one(home, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(edgefuse(*finetune(home, run)), env=ENVIRONMENT)
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 30:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (run / "report.json").exists()
    finish("finetune", home / "bundle", run, "--resume")
    for name in ("last.safetensors", "best.safetensors"):
        whole, resumed = load_file(home / "run" / name), load_file(run / name)
        assert whole.keys() == resumed.keys()
        assert all(whole[key].tobytes() == resumed[key].tobytes() for key in whole)


@pytest.mark.slow
def test_plain_transformers_computes_the_same_logits(home, tmp_path):
    finish("convert", home / "run", tmp_path / "plain", "--to", "transformers")
    texts = ["make it warm now please", "dark", "the lamp at home"]
    with silence_transformers(), torch.no_grad():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
        encoded = tokenizer(texts, return_tensors="pt", padding=True)
        logits = model(**encoded).logits.numpy()
    bundle, trained = open_trained(home / "run")
    expected = logits_of(bundle, trained, texts)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert [model.config.id2label[i] for i in range(3)] == LABELS
    assert model.config.architectures == [type(model).__name__]
    initial = logits_of(bundle, bundle.trainable(), texts)
    assert np.abs(initial - expected).max() > 1e-3


@pytest.mark.slow
def test_the_onnx_conversion_predicts_as_the_run_does(home, tmp_path):
    finish("convert", home / "run", tmp_path / "onnx")  # which compares logits itself
    figures = json.loads(finish("evaluate", home / "run", home / "valid.jsonl", "--json"))
    report = json.loads((home / "run/report.json").read_text())
    assert figures["figures"] == pytest.approx(report["figures"])
    script = (
        "import json, sys, numpy as np, onnxruntime, tokenizers\n"
        "encode = tokenizers.Tokenizer.from_file(sys.argv[1] + '/tokenizer.json').encode\n"
        "about = json.load(open(sys.argv[1] + '/conversion.json'))\n"
        "text = encode('make it dark')\n"
        "feed = {'input_ids': [text.ids], 'attention_mask': [text.attention_mask]}\n"
        "session = onnxruntime.InferenceSession(sys.argv[1] + '/model.onnx')\n"
        "logits, = session.run(None, {n: np.array(feed[n]) for n in about['inputs']})\n"
        "print(about['task']['labels'][logits.argmax()])\n"
    )
    bare = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "onnx"],
        capture_output=True,
        text=True,
        check=True,
    )
    predicted = finish("predict", home / "run", "make it dark")
    assert predicted.split("\t")[0] == bare.stdout.strip()
