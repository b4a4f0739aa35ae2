"""Where stock onnxruntime is installed, the second engine says what it needs."""

from pathlib import Path

import pytest

from edgefuse_devices.errors import BundleError, ModelError
from edgefuse_runtime.engines.engine import Training
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTraining
from edgefuse_runtime.optimizers.adamw import AdamW


def test_the_engine_says_which_package_it_needs():
    training = Training(
        folder=Path("kitchen"),
        parameters=[],
        frozen={},
        optimizer=AdamW(),
        mask=None,
        padding_id=0,
        threads=1,
    )
    with pytest.raises(BundleError, match=r"kitchen needs onnxruntime-training.*ort-training"):
        OnnxRuntimeTraining(version="1.19.2").open(training)


def test_export_says_which_environment_it_needs(tmp_path):
    torch = pytest.importorskip("torch")
    from edgefuse_export.engines.onnxruntime_training import write_training_artifacts  # noqa: PLC0415
    from tests.ort_training.training_case import TASK  # noqa: PLC0415

    with pytest.raises(ModelError, match="no training API"):
        write_training_artifacts(
            torch.nn.Linear(2, 2), TASK, {}, [], optimizer=AdamW(), directory=tmp_path
        )
