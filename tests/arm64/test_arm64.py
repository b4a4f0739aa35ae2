"""A bundle made here trains on ARM64: the same losses, and a killed run ends with the same weights.

The ARM64 Pythons are emulated, so nothing here is about speed. Most tests run on that of Raspberry
Pi OS 12 alone; 13's trains, is killed and goes on to the same weights.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgefuse.bundling.export import export
from edgefuse.demo.smart_home import make_splits
from edgefuse_devices.catalog import load_device
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.registry import TASKS
from edgefuse_runtime.training.checkpoint import LostCheckpointError, load_checkpoint
from tests.arm64.losses import losses
from tests.arm64.writing import logits
from tests.families import cases, wanted
from tests.pico_causal import save_causal_model
from tests.pico_models import TEXTS, save_pico_model

pytestmark = pytest.mark.arm64

ROOT = Path(__file__).parents[2]
PYTHONS = {version: ROOT / ".arm64" / version / "python" for version in ("3.11", "3.13")}
KILLS = 5
HOUSES = os.pathsep.join(str(ROOT / house) for house in ("", "export", "runtime", "devices"))
SETTINGS = ["--epochs", "3", "--learning-rate", "1e-3", "--threads", "1", "--save-every", "3"]
STEPS = 3 * 64 // 8


def _command(python: Path, *arguments: str | Path) -> list[str]:
    return [str(python), "-m", "edgefuse", *map(str, arguments)]


def _run(python: Path, *arguments: str | Path) -> str:
    environment = os.environ | {"ARM_PYTHONPATH": HOUSES}
    done = subprocess.run(
        _command(python, *arguments), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _printed(python: Path, module: str, *bundles: Path, core: str = "cortex-a76") -> Any:
    """What a module beside this one prints of bundles."""
    command = [python, "-m", f"tests.arm64.{module}", *bundles]
    environment = os.environ | {"ARM_PYTHONPATH": HOUSES, "QEMU_CPU": core}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.fixture(scope="module")
def python() -> Path:
    """Raspberry Pi OS 12's."""
    return _made("3.11")


def _made(version: str) -> Path:
    if not PYTHONS[version].exists():
        pytest.skip("there is no emulated ARM64 Python: make it with tests/arm64/install.sh")
    return PYTHONS[version]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and with the bundle of a fused pico model."""
    folder = tmp_path_factory.mktemp("arm64 lane")
    for name, rows in make_splits(train=64, valid=28, test=28).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    here = Path(sys.executable)
    save_pico_model(folder / "model", "bert")
    _run(here, "compress", folder / "model", folder / "fused", "--ratio", "0.5")
    chains = ["--method", "mpo", "--max-error", "0.2", "--matrices", "mlp"]
    _run(here, "compress", folder / "fused", folder / "chains", *chains)
    options = ["--device", "rpi5", "--batch-size", "8", "--sequence-length", "32"]
    labels = ["--labels", folder / "train.jsonl"]
    _run(here, "export", folder / "fused", folder / "bundle", *options, *labels)
    return folder


def _data(work: Path) -> list[str | Path]:
    return ["--train", work / "train.jsonl", "--valid", work / "valid.jsonl"]


@pytest.fixture(scope="module")
def x86_run(work: Path) -> Path:
    run = work / "run-x86"
    _run(Path(sys.executable), "finetune", work / "bundle", run, *_data(work), *SETTINGS)
    return run


@pytest.fixture(scope="module")
def arm_run(work: Path, python: Path) -> Path:
    run = work / "run-arm64"
    _run(python, "finetune", work / "bundle", run, *_data(work), *SETTINGS)
    return run


def _killed(python: Path, bundle: Path, run: Path, *options: str | Path, until: int) -> None:
    """Train, and end it by SIGKILL once its checkpoint is of that step or of a later one."""
    command = _command(python, "finetune", bundle, run, *options)
    bundle_id = open_bundle(bundle).id
    environment = os.environ | {"ARM_PYTHONPATH": HOUSES}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while _step(run, bundle_id) < until:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it saved no checkpoint in five minutes"
            time.sleep(0.01)
        process.kill()


def _step(run: Path, bundle_id: str) -> int:
    """The step of a run's last checkpoint; 0 where there is none."""
    try:
        return load_checkpoint(run / "last.safetensors", bundle_id=bundle_id)[1].step
    except LostCheckpointError:
        return 0


@pytest.mark.parametrize("version", PYTHONS)
def test_the_machine_is_arm64_and_has_no_torch(version: str) -> None:
    code = "import importlib.util as u, platform; print(platform.machine(), u.find_spec('torch'))"
    done = subprocess.run([_made(version), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aarch64", "None"]


def test_losses_agree_with_x86_step_by_step(x86_run: Path, arm_run: Path) -> None:
    losses = _losses(arm_run)
    assert len(losses) == STEPS
    assert losses == pytest.approx(_losses(x86_run), abs=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("version", PYTHONS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    work: Path, version: str, arm_run: Path
) -> None:
    python, bundle, run = _made(version), work / "bundle", work / f"run-killed-{version}"
    for kill in range(KILLS):
        options = ["--resume"] if kill else [*_data(work), *SETTINGS]
        _killed(python, bundle, run, *options, until=3 * kill + 3)
    assert not (run / "report.json").exists()
    _run(python, "finetune", bundle, run, "--resume")
    for name in ("last.safetensors", "best.safetensors"):
        _assert_same_bits(run / name, arm_run / name)
    assert _losses(run) == _losses(arm_run)


def _assert_same_bits(found: Path, expected: Path) -> None:
    ours, theirs = load_file(found), load_file(expected)
    assert ours.keys() == theirs.keys()
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)


def test_evaluation_agrees_with_x86(work: Path, python: Path, arm_run: Path) -> None:
    command = ["evaluate", arm_run, work / "test.jsonl", "--json"]
    there = json.loads(_run(python, *command))
    here = json.loads(_run(Path(sys.executable), *command))
    assert there["rows"] == 28
    assert there["figures"]["accuracy"] == here["figures"]["accuracy"]
    assert there["figures"]["loss"] == pytest.approx(here["figures"]["loss"], abs=1e-5)


def test_every_task_has_the_losses_of_x86(work: Path, python: Path) -> None:
    bundles = []
    for task in TASKS:
        name = name_of(task)
        family = next(family for family, possible in cases() if possible == name)
        model = save_pico_model(work / f"model-{name}", family.kind, layers=1)
        bundles.append(work / f"bundle-{name}")
        size = {"batch_size": 4, "sequence_length": 16}
        export(str(model), bundles[-1], device=load_device("rpi5"), task=wanted(name), **size)
    for bundle, found in zip(bundles, _printed(python, "losses", *bundles), strict=True):
        assert found == pytest.approx(losses(bundle), abs=1e-5), bundle.name
        assert len(set(found)) == len(found)


@pytest.fixture(scope="module")
def writers(work: Path) -> list[Path]:
    """Bundles of a language model, whose base is in 8 and in 4 bits."""
    save_causal_model(work / "writer", tied=True, layers=2, hidden_size=64)
    bundles = [work / f"writer-{precision}" for precision in ("int8", "int4")]
    for bundle, precision in zip(bundles, ("int8", "int4"), strict=True):
        export(
            str(work / "writer"),
            bundle,
            device=load_device("rpi5"),
            task=wanted("text-generation"),
            tune="lora",
            base=precision,
            batch_size=4,
            sequence_length=24,
        )
    return bundles


@pytest.mark.parametrize(
    ("version", "core"),
    [
        ("3.11", "cortex-a76"),
        ("3.11", "cortex-a72"),
        ("3.11", "cortex-a53"),
        ("3.13", "cortex-a76"),
    ],
)
def test_each_core_trains_as_x86(work: Path, writers: list[Path], version: str, core: str) -> None:
    bundles = [work / "bundle", *writers]
    printed = _printed(_made(version), "losses", *bundles, core=core)
    for bundle, found in zip(bundles, printed, strict=True):
        assert found == pytest.approx(losses(bundle), abs=1e-5), bundle.name
        assert len(set(found)) == len(found)


def test_language_models_write_as_on_x86(writers: list[Path], python: Path) -> None:
    for bundle, found in zip(writers, _printed(python, "writing", *writers), strict=True):
        here, there = np.array(logits(bundle)), np.array(found)
        # What is multiplied by codes is rounded to 8 bits, as each processor does it.
        assert np.linalg.norm(there - here) < 0.04 * np.linalg.norm(here), bundle.name


def test_a_killed_language_model_resumes_bit_for_bit(
    writers: list[Path], work: Path, python: Path
) -> None:
    rows = work / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options = ["--train", rows, *SETTINGS]
    straight, killed = work / "run-writer", work / "run-writer-killed"
    _run(python, "finetune", writers[0], straight, *options)
    _killed(python, writers[0], killed, *options, until=3)
    assert len(_losses(killed)) < len(_losses(straight))
    _run(python, "finetune", writers[0], killed, "--resume")
    for name in ("last.safetensors", "best.safetensors"):
        _assert_same_bits(killed / name, straight / name)
    assert _losses(killed) == _losses(straight)


@pytest.mark.parametrize(
    ("model", "tune"),
    [
        ("fused", ["lora", "--lora-rank", "2"]),
        ("chains", ["mpo", "--mpo-auxiliary-rate", "0.5"]),
    ],
    ids=["lora", "mpo"],
)
def test_what_trains_in_parts_trains_and_merges_as_on_x86(
    model: str, tune: list[str], work: Path, python: Path
) -> None:
    here, bundle = Path(sys.executable), work / f"bundle-{tune[0]}"
    options = ["--device", "rpi5", "--batch-size", "8", "--sequence-length", "32", "--tune", *tune]
    _run(here, "export", work / model, bundle, *options, "--labels", work / "train.jsonl")
    settings = ["--epochs", "1", "--learning-rate", "1e-2", "--threads", "1"]
    losses, accuracies = {}, {}
    for name, interpreter in (("x86", here), ("arm64", python)):
        run = work / f"run-{tune[0]}-{name}"
        _run(interpreter, "finetune", bundle, run, *_data(work), *settings)
        losses[name] = _losses(run)
        merged = work / f"model-{tune[0]}-{name}"
        _run(interpreter, "convert", run, merged, "--to", "transformers")
        evaluation = _run(interpreter, "evaluate", run, work / "test.jsonl", "--json")
        accuracies[name] = json.loads(evaluation)["figures"]["accuracy"]
    assert len(losses["arm64"]) == 64 // 8
    assert losses["arm64"] == pytest.approx(losses["x86"], abs=1e-5)
    assert accuracies["arm64"] == accuracies["x86"]
    there, plain = (
        load_file(work / f"model-{tune[0]}-{name}" / "model.safetensors")
        for name in ("arm64", "x86")
    )
    assert there.keys() == plain.keys()
    # A key's bias has no gradient but rounding, whose sign is all that Adam sees.
    names = [name for name in plain if not name.endswith("key.bias")]
    assert all(there[name] == pytest.approx(plain[name], abs=1e-4) for name in names)
