"""What runs on a board loads none of the workstation's libraries, and --help nearly nothing."""

import json
import os
import subprocess
import sys

import pytest

WORKSTATION = {
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "sklearn", "scipy"),
    *("optimum", "peft", "matplotlib"),
}
# The program, and at its end what it imported, on the last line of stderr.
PROGRAM = """
import json, sys
from edgefuse.cli import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def imported(*arguments):
    """Run `edgefuse ARGUMENTS` and say which top-level modules it imported."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stderr.splitlines()[-1]))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    texts = {"turn on the lamp": "up", "turn off the lamp": "down", "a great movie": "up"}
    lines = (json.dumps({"text": text, "label": label}) for text, label in texts.items())
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def run(pico_bundle, rows, tmp_path_factory):
    """A run, and what training it imported."""
    run = tmp_path_factory.mktemp("run") / "run"
    data = ("--train", rows, "--valid", rows)
    return run, imported("finetune", pico_bundle, run, *data, "--epochs", 1, "--json")


def test_finetune_is_light(run):
    _, modules = run
    assert "onnxruntime" in modules
    assert not modules & WORKSTATION


def test_evaluate_is_light(run, rows):
    modules = imported("evaluate", run[0], rows)
    assert "onnxruntime" in modules
    assert not modules & WORKSTATION


def test_predict_is_light(run):
    modules = imported("predict", run[0], "turn on the lamp")
    assert "onnxruntime" in modules
    assert not modules & WORKSTATION


def test_doctor_is_light(pico_bundle):
    modules = imported("doctor", pico_bundle)
    assert "onnxruntime" in modules
    assert not modules & WORKSTATION


def test_bench_is_light(pico_bundle, tmp_path):
    file = tmp_path / "report.json"
    modules = imported("bench", pico_bundle, "--steps", 1, "-o", file)
    assert "edgefuse_runtime" in modules
    assert not modules & WORKSTATION
    assert not imported("report", file, "-o", tmp_path / "report.html") & WORKSTATION


def test_what_bench_measures_is_light(pico_bundle, tmp_path):
    program = """
import json, sys
from pathlib import Path
from edgefuse_runtime.measuring.bench import plan_workload
from edgefuse_runtime.measuring.process import measure
from edgefuse_runtime.bundle.bundle import open_bundle
workload = plan_workload(open_bundle(Path(sys.argv[1])), steps=1, threads=1)
list(measure(Path(sys.argv[1]), workload))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    command = [sys.executable, "-c", program, str(pico_bundle)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(json.loads(result.stdout))
    assert "onnxruntime" in modules
    assert not modules & (WORKSTATION | {"edgefuse", "typer", "rich"})


@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["export", "--help"]])
def test_help_loads_no_library_that_computes(arguments):
    modules = imported(*arguments)
    assert "typer" in modules
    # Flags are made of tasks, whose files need numpy and tokenizers.
    assert not modules & (WORKSTATION | {"onnxruntime", "safetensors"})
