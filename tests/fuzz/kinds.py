"""What is changed, and which commands are given it."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from tests.fuzz import mutations

Judge = Callable[[Path, str], str]
"""What is wrong with a case that ended well, given its folder and what it wrote; nothing if all
is right."""


class Case(NamedTuple):
    """A command over something that was changed.

    Attributes:
        arguments: The command.
        changed: What was changed, for people.
        may_write: What the command may write to, of its folder.
        judge: Says whether it may have ended well.
    """

    arguments: Sequence[str]
    changed: str
    may_write: Sequence[str] = ("out",)
    judge: Judge = lambda _folder, _out: ""


def right(_folder: Path, out: str) -> str:
    """Of what a command says that ended well, nothing is not a number."""
    words = out.lower().replace(":", " ").replace(",", " ").split()
    return "it says nan" if {"nan", "inf", "-inf"} & set(words) else ""


def never(_folder: Path, _out: str) -> str:
    """The change must have been seen."""
    return "it was accepted"


def same_weights(folder: Path, _out: str) -> str:
    """A run that went on ended with the weights of the one that nobody touched.

    Of epochs whose best weights are lost, others may be the best.
    """
    found, expected = (load_file(folder / run / "last.safetensors") for run in ("run", "whole"))
    same = all(np.array_equal(found[name], expected[name]) for name in expected)
    return "" if same else "it ended with other weights"


_TEXT = "turn on the lamp"


def bundle_with_wrong_digests(folder: Path, rng: random.Random) -> Case:
    """A file of a bundle is changed."""
    bundle = folder / "bundle"
    file = _drawn(bundle, rng, but="manifest.json")
    if rng.random() < 0.1:
        mutations.of_place(file, rng)
    elif not _change(file, rng):
        return Case(_on_bundle(rng), "nothing")
    return Case(_on_bundle(rng), file.name, judge=never)


def bundle_with_right_digests(folder: Path, rng: random.Random) -> Case:
    """A file of a bundle is changed by somebody who knows how its manifest is made."""
    bundle = folder / "bundle"
    file = _drawn(bundle, rng, but="manifest.json")
    _change(file, rng)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    raw = file.read_bytes()
    entry = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    manifest["files"][file.relative_to(bundle).as_posix()] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return Case(_on_bundle(rng), file.name, judge=right)


def manifest(folder: Path, rng: random.Random) -> Case:
    """What a manifest says is changed."""
    file = folder / "bundle" / "manifest.json"
    file.write_bytes(mutations.of_json(file.read_bytes(), rng))
    return Case(_on_bundle(rng), file.name, judge=right)


def run_folder(folder: Path, rng: random.Random) -> Case:
    """A file of a run is changed."""
    file = _spoilt(folder / "run", rng)
    commands = (
        ["finetune", "bundle", "run", "--resume"],
        ["predict", "run", _TEXT],
        ["evaluate", "run", "rows.jsonl"],
        ["convert", "run", "out", "--to", "onnx"],
        ["check", "run"],
        ["report", "run", "-o", "out"],
    )
    command = rng.choice(commands)
    is_checkpoint = command[0] == "finetune" and file.suffix == ".safetensors"
    return Case(command, file.name, ("out", "run"), judge=same_weights if is_checkpoint else right)


def rows(folder: Path, rng: random.Random) -> Case:
    """Rows of data are changed."""
    name = rng.choice(("rows.jsonl", "rows.csv"))
    file = folder / name
    for _ in range(rng.choice((1, 1, 3))):
        file.write_bytes(mutations.of_text(file.read_bytes(), rng))
    commands = (
        ["evaluate", "bundle", name],
        ["predict", "bundle", "--file", name],
        ["finetune", "bundle", "out", "--train", name, "--epochs", "1"],
    )
    return Case(rng.choice(commands), name, judge=right)


def profile(folder: Path, rng: random.Random) -> Case:
    """A board's profile is changed."""
    file = folder / "board.toml"
    file.write_bytes(mutations.of_text(file.read_bytes(), rng))
    return Case(["devices", "show", "board.toml"], file.name, judge=right)


def model(folder: Path, rng: random.Random) -> Case:
    """A file of a model's directory is changed."""
    file = _spoilt(folder / "model", rng)
    commands = (
        ["check", "model"],
        ["compress", "model", "out", "--dry-run"],
        ["compress", "model", "out", "--method", "prune", "--ratio", "0.5"],
    )
    return Case(rng.choice(commands), file.name, judge=right)


def adapter(folder: Path, rng: random.Random) -> Case:
    """A file of an adapter is changed."""
    file = _drawn(folder / "adapter", rng)
    _change(file, rng)
    command = ["export", "adapter", "out", "--device", "rpi5", "--labels", "rows.jsonl"]
    return Case(command, file.name, judge=right)


def gguf(folder: Path, rng: random.Random) -> Case:
    """A GGUF file is changed."""
    file = folder / "model.gguf"
    file.write_bytes(mutations.of_bytes(file.read_bytes(), rng))
    return Case(["compress", "model.gguf", "out", "--dry-run"], file.name, judge=right)


LIGHT = {
    bundle_with_wrong_digests: 300,
    bundle_with_right_digests: 400,
    manifest: 250,
    run_folder: 350,
    rows: 400,
    profile: 150,
}
"""Kinds for which nothing of the workstation is needed, and how many of 2,000 cases are theirs."""

HEAVY = {model: 90, gguf: 50, adapter: 10}
"""Kinds for which torch is."""


def _on_bundle(rng: random.Random) -> list[str]:
    commands = (
        ["predict", "bundle", _TEXT],
        ["evaluate", "bundle", "rows.jsonl"],
        ["finetune", "bundle", "out", "--train", "rows.jsonl", "--epochs", "1"],
        ["check", "bundle"],
    )
    return rng.choice(commands)


def _drawn(folder: Path, rng: random.Random, *, but: str = "") -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != but)
    return rng.choice(files)


def _spoilt(folder: Path, rng: random.Random) -> Path:
    """A file of a folder that is changed, or has something else in its place."""
    file = _drawn(folder, rng)
    if rng.random() < 0.1:
        mutations.of_place(file, rng)
    else:
        _change(file, rng)
    return file


def _change(file: Path, rng: random.Random) -> bool:
    """Change a file as suits what is in it; False where it is as it was."""
    raw = file.read_bytes()
    ways = {
        ".json": mutations.of_json,
        ".jsonl": mutations.of_text,
        ".safetensors": mutations.of_tensors,
    }
    changed = ways.get(file.suffix, mutations.of_bytes)(raw, rng)
    file.write_bytes(changed)
    return changed != raw


def copy(home: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy what a case begins with."""
    for name in names:
        if (home / name).is_dir():
            shutil.copytree(home / name, folder / name)
        else:
            shutil.copyfile(home / name, folder / name)
