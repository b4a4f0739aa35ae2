"""Both engines train alike. Their packages exclude each other, so losses come by file."""

import json
import os
from pathlib import Path

import pytest

import edgefuse
from edgefuse_devices.errors import ModelError
from tests.ort_training.losses import record_losses
from tests.ort_training.training_case import LABELS
from tests.pico_models import save_pico_model

pytestmark = pytest.mark.ort_training


def test_twenty_steps_are_those_of_the_stock_engine():
    if "EDGEFUSE_STOCK_LOSSES" not in os.environ:
        pytest.skip("run.sh records the stock engine's losses first")
    folder = Path(os.environ["EDGEFUSE_STOCK_LOSSES"])
    stock = json.loads((folder / "onnxruntime.json").read_text())

    losses = record_losses("onnxruntime-training", folder)

    assert losses.keys() == stock.keys()
    for case, expected in stock.items():
        assert losses[case] == pytest.approx(expected, abs=1e-4), case


def test_a_model_whose_gradients_the_engine_builds_wrongly_is_refused(tmp_path):
    model = save_pico_model(tmp_path / "llama", "llama", num_labels=LABELS, layers=1)
    options = {"device": "host", "num_labels": LABELS, "sequence_length": 32}
    with pytest.raises(ModelError, match="onnxruntime-training trains the model wrongly"):
        edgefuse.export(model, tmp_path / "b", engine="onnxruntime-training", **options)
    assert not (tmp_path / "b").exists()
