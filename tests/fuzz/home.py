"""What the cases begin with: a bundle, a run, a model, rows, a profile and a GGUF file."""

import csv
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

import edgefuse_devices
from edgefuse_devices.errors import Interrupted
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.data.rows import read_rows
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.run import TrainingSettings
from tests.pico_gguf import save_gguf
from tests.tuned_pico import exported, labelled_rows, pico

_STEPS = 5  # of which three are an epoch


def make_home(folder: Path) -> Path:
    """Make all of it in a folder."""
    shutil.copytree(exported("shallow-bert").path, folder / "bundle")
    shutil.copytree(pico("shallow-bert"), folder / "model")
    shutil.copyfile(labelled_rows(), folder / "rows.jsonl")
    _write_table(folder / "rows.jsonl", folder / "rows.csv")
    _begin_run(folder)
    _save_adapter(folder / "model", folder / "adapter")
    profiles = Path(edgefuse_devices.__file__).parent / "profiles"
    shutil.copyfile(next(profiles.glob("rpi5*.toml")), folder / "board.toml")
    save_gguf(folder / "model.gguf")
    return folder


def _begin_run(folder: Path) -> None:
    """Train for an epoch and two steps, which leaves three checkpoints, and another to the end."""
    steps = iter(range(_STEPS))
    bundle, rows = open_bundle(folder / "bundle"), folder / "rows.jsonl"
    with pytest.raises(Interrupted):
        finetune(
            bundle,
            folder / "run",
            train=rows,
            valid=rows,
            settings=TrainingSettings(epochs=3, batch_size=4, save_every=1, threads=1),
            stop=lambda: next(steps) == _STEPS - 1,
        )
    shutil.copytree(folder / "run", folder / "whole")
    finetune(bundle, folder / "whole", train=rows, valid=rows, resume=True)


def _save_adapter(base: Path, folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    config = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder)
    described = folder / "adapter_config.json"
    described.write_text(described.read_text().replace(str(base), base.name))


def _write_table(rows: Path, table: Path) -> None:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(row.fields for row in read_rows(rows, ""))
