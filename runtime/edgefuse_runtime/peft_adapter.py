"""What was trained, as peft reads it: adapter_model.safetensors beside adapter_config.json."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from edgefuse_devices.errors import RunError
from edgefuse_runtime.bundle import PEFT_CONFIG, Bundle, LowRankUpdate
from edgefuse_runtime.engine import Tensors

_WEIGHTS = "adapter_model.safetensors"
_PREFIXES = {"LORA": "base_model.model."}
"""What peft puts before a parameter's name, by `peft_type`."""


class _Config(msgspec.Struct):
    peft_type: str


def check_adapter(bundle: Bundle) -> None:
    """Refuse a bundle that trains no adapter.

    Raises:
        RunError: It is one.
    """
    method = bundle.manifest.tuning.method
    if PEFT_CONFIG not in bundle.manifest.files:
        raise RunError(
            f"peft has no adapter that says what --tune {method} trains",
            "Convert it with --to transformers or --to onnx, or export it with --tune lora",
        )


def write_adapter(bundle: Bundle, trained: Tensors, directory: Path) -> None:
    """Write what `peft.PeftModel.from_pretrained(base, directory)` loads onto the plain model.

    Args:
        bundle: One that `check_adapter` lets pass.
        trained: Trained parameters by name.
        directory: Exists.
    """
    source = bundle.path / PEFT_CONFIG
    shutil.copyfile(source, directory / source.name)
    prefix = _PREFIXES[msgspec.json.decode(source.read_bytes(), type=_Config).peft_type]
    tensors = {f"{prefix}{name}": value for name, value in _on_plain_model(bundle, trained).items()}
    save_file(tensors, directory / _WEIGHTS, {"format": "pt"})
    shutil.copymode(directory / source.name, directory / _WEIGHTS)  # safetensors: private


def _on_plain_model(bundle: Bundle, trained: Tensors) -> Tensors:
    """W diag(P) is what the plain model has, and (W + s B A) diag(P) what it is to compute."""
    updates = {m.weight: m for m in bundle.manifest.merges if isinstance(m, LowRankUpdate)}
    folds = [fold for fold in bundle.manifest.folds if fold.weight in updates]
    frozen = bundle.frozen() if folds else {}
    a = {updates[f.weight].a: frozen[f.multiplicity] for f in folds}
    return {n: np.ascontiguousarray(t * a[n] if n in a else t) for n, t in trained.items()}
