"""What was trained, as peft reads it: adapter_model.safetensors beside adapter_config.json."""

import shutil
from pathlib import Path

import msgspec

from edgefuse_runtime.bundle.bundle import PEFT_CONFIG, Bundle
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.files.tensor_file import write_tensors
from edgefuse_runtime.graph.merges import Fold, LowRankUpdate, MatrixProduct, Perceptron, merged

_WEIGHTS = "adapter_model.safetensors"
_PREFIXES = {"LORA": "base_model.model.", "PREFIX_TUNING": "base_model."}
"""What peft puts before a parameter's name, by `peft_type`."""
_TRAINED = ("lora", "prefix")
"""Ways of tuning that train what peft calls an adapter."""
_RENAMED = {".prefix.weight": "prompt_embeddings"}
"""What peft calls a tensor otherwise, by how its name ends."""


class _Config(msgspec.Struct):
    peft_type: str


def not_adapter(bundle: Bundle) -> str:
    """Why what a bundle trains is no adapter onto a plain model; nothing where it is one."""
    manifest = bundle.manifest
    method = manifest.tuning.method
    if PEFT_CONFIG not in manifest.files and method in _TRAINED:
        return "it was trained on a model that an adapter had been merged into, not on its base"
    if PEFT_CONFIG not in manifest.files:
        return f"peft takes what --tune {' and '.join(_TRAINED)} train, not what {method} does"
    if any(isinstance(merge, MatrixProduct) for merge in manifest.merges):
        return (
            "peft loads adapters onto plain models, and this one's matrices are chains of tensors"
        )
    return ""


def write_adapter(bundle: Bundle, trained: Tensors, directory: Path) -> None:
    """Write what `peft.PeftModel.from_pretrained(base, directory)` loads onto the plain model.

    Args:
        bundle: One that trains an adapter.
        trained: Trained parameters by name.
        directory: Exists.
    """
    source = bundle.path / PEFT_CONFIG
    shutil.copyfile(source, directory / source.name)
    prefix = _PREFIXES[msgspec.json.decode(source.read_bytes(), type=_Config).peft_type]
    tensors = {
        _peft_name(name, prefix): tensor
        for name, tensor in _on_plain_model(bundle, trained).items()
    }
    write_tensors(directory / _WEIGHTS, tensors, {"format": "pt"})


def _on_plain_model(bundle: Bundle, trained: Tensors) -> Tensors:
    """W diag(P) is what the plain model has, and (W + s B A) diag(P) what it is to compute."""
    merges = bundle.manifest.merges
    made = merged([m for m in merges if isinstance(m, Perceptron)], trained)
    updates = {m.weight: m for m in merges if isinstance(m, LowRankUpdate)}
    folds = [m for m in merges if isinstance(m, Fold) and m.weight in updates]
    a = {updates[f.weight].a: bundle.frozen[f.multiplicity] for f in folds}
    return {name: t * a[name] if name in a else t for name, t in made.items()}


def _peft_name(name: str, prefix: str) -> str:
    for ending, other in _RENAMED.items():
        if f".{name}".endswith(ending):
            return other
    return f"{prefix}{name}"
