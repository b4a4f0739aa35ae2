"""Both engines train alike. Their packages exclude each other, so losses come by file."""

import json
import os
from pathlib import Path

import pytest

from tests.ort_training.losses import record_losses

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
