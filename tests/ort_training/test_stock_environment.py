"""Where stock onnxruntime is installed, the second engine says what it needs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgefuse_devices.errors import BundleError, ModelError
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.bundle.manifest import AdamW
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTrainingEngine


def test_the_engine_says_which_package_it_needs():
    bundle = Bundle(Path("kitchen"), SimpleNamespace(parameters=[], optimizer=AdamW()), "")
    with pytest.raises(BundleError, match=r"kitchen needs onnxruntime-training.*ort-training"):
        OnnxRuntimeTrainingEngine(bundle, threads=1)


def test_export_says_which_environment_it_needs(tmp_path):
    torch = pytest.importorskip("torch")
    from edgefuse_export.engines.onnxruntime_training import write_training_artifacts  # noqa: PLC0415

    with pytest.raises(ModelError, match="no training API"):
        write_training_artifacts(torch.nn.Linear(2, 2), {}, [], AdamW(), tmp_path)
