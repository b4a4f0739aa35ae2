"""Fixtures that several test files share."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgefuse_runtime  # noqa: F401 - telemetry is off before any test imports onnxruntime
from tests.shared import close_folder, made_once, open_folder
from tests.uncovered import look_away

PicoModel = Callable[..., Path]

# Whoever starts the tests in the background starts them with Ctrl-C or a hang-up ignored, and so
# would they the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LONGEST_FILES = (
    "export/test_families.py",
    "export/test_layers_engine.py",
    "export/test_base.py",
    "fuzz/test_fuzz.py",
    "export/test_decoding.py",
    "export/test_tuning_ways.py",
    "export/test_plan.py",
    "export/test_export.py",
    "export/test_mpo_export.py",
    "export/test_engine.py",
    "end_to_end/test_demo.py",
    "end_to_end/test_squeeze.py",
    "durability/test_kills.py",
    "export/test_lora.py",
    "export/test_adapters_of_others.py",
    "export/test_same_losses.py",
    "export/test_real_models.py",
    "export/test_seams.py",
    "end_to_end/test_real_run.py",
    "export/test_prefix.py",
)
"""Test files that start first, the longest first, so that no worker ends long after another."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=2000, help="how many cases tests/fuzz tries")


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest) -> int:
    """How many cases tests/fuzz tries."""
    return int(request.config.getoption("--cases"))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that starts the workers
        open_folder()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        close_folder()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    rank = {tests / name: index for index, name in enumerate(LONGEST_FILES)}
    assert all(file.is_file() for file in rank), "LONGEST_FILES names a file that is not there"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    look_away()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Run the command line; gives `code`, `out` and `err`."""
    from edgefuse.cli import main  # noqa: PLC0415 - not for the lanes without typer

    def call(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["edgefuse", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=exit_.value.code or 0, out=captured.out, err=captured.err)

    return call


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory: pytest.TempPathFactory) -> PicoModel:
    """`pico_model("bert", num_labels=2)` gives the directory of a model to read, made once."""
    from tests.pico_models import save_pico_model  # noqa: PLC0415 - torch, for those that need it

    made: dict[tuple[str, int | None, int], Path] = {}

    def get(architecture: str = "bert", *, num_labels: int | None = None, seed: int = 0) -> Path:
        key = (architecture, num_labels, seed)
        if key not in made:
            made[key] = save_pico_model(
                tmp_path_factory.mktemp("pico") / architecture,
                architecture,
                num_labels=num_labels,
                seed=seed,
            )
        return made[key]

    return get


@pytest.fixture(scope="session")
def pico_bundle(pico_model: PicoModel) -> Path:
    """The directory of a bundle to read: a pico BERT with two classes, for the Raspberry Pi 5."""
    from edgefuse.bundling.export import export  # noqa: PLC0415 - torch, for those that need it
    from edgefuse_devices.catalog import load_device  # noqa: PLC0415
    from edgefuse_export.tasks.text_classification import (  # noqa: PLC0415
        WantedTextClassification,
    )

    task = WantedTextClassification(labels=["down", "up"])
    model, board = str(pico_model("bert")), load_device("rpi5")
    options = {"task": task, "batch_size": 4, "sequence_length": 16}
    return made_once("pico-bundle", lambda path: export(model, path, device=board, **options))


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The directory of real data sets (SST-2, Banking77)."""
    return _directory("EDGEFUSE_TEST_DATA")


@pytest.fixture(scope="session")
def models_directory() -> Path:
    """The directory of small trained language models."""
    return _directory("EDGEFUSE_TEST_MODELS")


def _directory(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)
