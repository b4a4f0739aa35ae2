"""Bundles train to the losses that they had before the redesign of issue 18, bit for bit.

The figures were recorded at the commit before, on one processor and one version of ONNX Runtime.
There they must be the same to the last bit; other processors sum in another order.
"""

import json
from pathlib import Path

import onnxruntime
import pytest

from edgefuse.bundling.export import export
from edgefuse_devices.catalog import load_device
from edgefuse_devices.probe import probe
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import StepRecord
from edgefuse_runtime.training.run import TrainingSettings
from tests.tiny_bundle import LABELS, write_data
from tests.tuned_pico import pico

RECORDED = json.loads(Path(__file__).with_name("losses_before_the_redesign.json").read_text())


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_a_bundle_trains_to_the_losses_that_it_had(case: str, tmp_path: Path) -> None:
    kind, tune = case.split()
    bundle = export(
        str(pico(kind)),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=LABELS),
        tune=tune,
        batch_size=8,
        sequence_length=16,
    )
    finetune(
        bundle,
        tmp_path / "run",
        train=write_data(tmp_path / "train.jsonl", 60),
        valid=write_data(tmp_path / "valid.jsonl", 20, seed=1),
        settings=TrainingSettings(epochs=2, threads=1, learning_rate=1e-3),
    )
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps = [line for line in lines if isinstance(line, StepRecord)]
    here = (probe().soc, onnxruntime.__version__)
    exact = here == (RECORDED["processor"], RECORDED["onnxruntime"])
    for name, values in (
        ("losses", [step.loss for step in steps]),
        ("gradient_norms", [step.gradient_norm for step in steps]),
    ):
        recorded = RECORDED["cases"][case][name]
        assert values == (recorded if exact else pytest.approx(recorded, rel=1e-3)), name
