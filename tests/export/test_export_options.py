"""Options of `edgefuse export` reach the way of tuning and the optimizer that they belong to."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgefuse.tuning.way import Way
from edgefuse.tuning.ways.adapter import Adapter
from edgefuse.tuning.ways.child import ChildD, ChildF
from edgefuse.tuning.ways.last import Last
from edgefuse.tuning.ways.lora import Lora
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse.tuning.ways.prefix import Prefix
from edgefuse_devices.errors import InputError
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.optimizers.adamw import AdamW
from tests.tuned_pico import labelled_rows, pico

Run = Callable[..., SimpleNamespace]
PicoModel = Callable[..., Path]


@pytest.fixture
def asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give the command options; what it asks of `export` is not done, and is returned."""
    arguments: list[dict[str, Any]] = []

    def export(*_: object, **given: object) -> None:
        arguments.append(given)
        raise InputError("far enough", "Stop")

    def given(*options: object) -> dict[str, Any]:
        command = ("export", pico("bert"), tmp_path / "bundle", "--device", "rpi5")
        assert "far enough" in run(*command, "--num-labels", 3, *options).err
        return arguments.pop()

    monkeypatch.setattr("edgefuse.bundling.export.export", export)
    return given


@pytest.mark.parametrize(
    ("tune", "options", "expected"),
    [
        ("lora", ("--lora-rank", 3, "--lora-alpha", 5), Lora(rank=3, alpha=5.0)),
        ("lora", ("--lora-targets", "query, value"), Lora(targets=("query", "value"))),
        ("adapter", ("--adapter-size", 7), Adapter(size=7)),
        (
            "prefix",
            ("--prefix-length", 3, "--prefix-projection", 9),
            Prefix(length=3, projection=9),
        ),
        ("child-f", ("--child-keep", 0.4), ChildF(keep=0.4)),
        (
            "child-d",
            ("--child-keep", 0.4, "--child-data", labelled_rows()),
            ChildD(keep=0.4, data=labelled_rows()),
        ),
        (
            "mpo",
            ("--mpo-central-keep", 0.3, "--mpo-auxiliary-rate", 2),
            Mpo(central_keep=0.3, auxiliary_rate=2.0),
        ),
        ("last-3", (), Last(layers=3)),
    ],
)
def test_a_ways_options_are_those_of_the_command(
    tune: str, options: tuple[object, ...], expected: Way, asked: Callable[..., Any]
) -> None:
    assert asked("--tune", tune, *options)["tune"] == expected


def test_an_optimizers_options_are_those_of_the_command(asked: Callable[..., Any]) -> None:
    options = ("--optimizer", "adamw", "--weight-decay", 0.1, "--max-gradient-norm", 0)
    assert asked(*options)["optimizer"] == AdamW(weight_decay=0.1, max_gradient_norm=0.0)
    assert asked()["optimizer"] == AdamW()


def test_the_command_shows_what_was_exported_and_how_well_it_was_checked(
    run: Run, pico_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(pico_bundle)
    monkeypatch.setattr("edgefuse.bundling.export.export", lambda *_, **__: bundle)
    command = ("export", "model", tmp_path / "bundle", "--device", "rpi5", "--num-labels", 2)
    result = run(*command)
    assert result.code == 0
    assert "predicted memory" in result.out
    assert bundle.manifest.device.title in result.out
    assert bundle.manifest.certificate is not None
    assert f"all {bundle.manifest.certificate.gradients} gradients" in result.out
    assert "edgefuse finetune" in result.out
    assert json.loads(run(*command, "--json").out)["id"] == bundle.id


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ((), "The classes are not known"),
        (("--num-labels", 2, "--labels", labelled_rows()), "say the same thing twice"),
        (("--num-labels", 2, "--batch-size", "many"), "neither a count of rows nor auto"),
    ],
)
def test_classes_and_batches_that_are_not_clear_are_refused(
    options: tuple[object, ...], refusal: str, run: Run, pico_model: PicoModel, tmp_path: Path
) -> None:
    result = run("export", pico_model("bert"), tmp_path / "bundle", "--device", "rpi5", *options)
    assert result.code == 2
    assert refusal in result.err
