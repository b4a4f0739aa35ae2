"""The files of a bundle that other libraries write: the tokenizer and configurations."""

import shutil
from pathlib import Path

from peft import PeftConfig

from edgefuse.bundling.load import Loaded
from edgefuse.bundling.ready import Ready
from edgefuse.bundling.source import Origin
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file
from edgefuse.tuning.extend import class_of
from edgefuse_runtime.bundle.bundle import PEFT_CONFIG

_GENERATION = "generation_config.json"


def write_files(folder: Path, origin: Origin, loaded: Loaded, ready: Ready) -> None:
    """Write tokenizer and configurations into a bundle's folder.

    Args:
        folder: Empty folder.
        origin: What the model was loaded from.
        loaded: The model's tokenizer and task.
        ready: The model, whose configuration changes.
    """
    loaded.tokenizer.save_backend(folder, length=ready.sequence_length)
    config = ready.model.config
    config.architectures = [class_of(ready.model).__name__]  # no longer the source's
    with silence_transformers():
        config.save_pretrained(folder / "model")
        loaded.tokenizer.save(folder / "model")
        loaded.task.save(folder / "model", length=ready.sequence_length)
        if ready.prepared.peft:
            _write_peft_config(ready.prepared.peft, origin.base, folder / PEFT_CONFIG)
    generation = find_file(origin.base, _GENERATION)
    if generation and ready.model.can_generate():
        shutil.copyfile(generation, folder / "model" / _GENERATION)


def _write_peft_config(config: PeftConfig, base: ModelSource, file: Path) -> None:
    config.base_model_name_or_path = base.label
    config.revision = base.revision
    config.inference_mode = True
    config.save_pretrained(str(file.parent))
