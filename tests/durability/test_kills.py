"""A run that is killed, at whatever moment, goes on and ends as one that was not."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edgefuse_runtime.files.output import new_directory
from edgefuse_runtime.training import finetune
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import StepRecord
from tests.durability import training
from tests.tiny_bundle import make_bundle, write_data

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed here")

_UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
"""Coverage writes files of its own."""

WRITING = "fsync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,ftruncate"
"""What changes the disk for good."""


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=check, env=_UNMEASURED)


def kills(script: list[str], trace: Path, reset: Callable[[], object]) -> Iterator[str]:
    """Run a script again and again, and kill it at each such call that it makes, one at a time.

    Args:
        script: The command.
        trace: A file for what strace writes.
        reset: Lays the ground for the script.

    Yields:
        The call that the script was killed at.
    """
    traced = ["strace", "-f", "-qq", "-o", str(trace), "-e"]
    reset()
    run([*traced, f"trace={WRITING}", *script])
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    for name, count in calls.items():
        for number in range(1, count + 1):
            inject = f"inject={name}:signal=SIGKILL:when={number}"
            reset()
            done = run([*traced, f"trace={name}", "-e", inject, *script], check=False)
            assert done.returncode == -signal.SIGKILL, done.stderr
            yield f"{name} {number}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_bundle(folder / "bundle")
    write_data(folder / "train.jsonl", 10)
    train(folder, "whole")
    return folder


def command(files: Path, run: str | Path) -> list[str]:
    module = [sys.executable, "-m", "tests.durability.training"]
    return [*module, str(files / "bundle"), str(files / run), str(files / "train.jsonl")]


def train(files: Path, folder: str | Path, *options: str) -> None:
    run([*command(files, folder), *options])


def assert_same(files: Path, run: Path) -> None:
    """Every file of a finished run, but for what the clock says, is that of the whole one."""
    whole = files / "whole"
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
    timeless = {"samples_per_second": 0.0, "tokens_per_second": 0.0, "rss_mib": 0.0}

    def lines(folder: Path) -> list[object]:
        return [
            msgspec.structs.replace(line, **timeless) if isinstance(line, StepRecord) else line
            for line in read_metrics(folder / "metrics.jsonl")
        ]

    assert lines(run) == lines(whole)
    for name in ("last.safetensors", "best.safetensors"):
        assert tensors(run / name) == tensors(whole / name)


def tensors(file: Path) -> bytes:
    """What stands behind the header, which has the run's times."""
    raw = file.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_a_run_that_is_killed_at_any_call_that_writes_goes_on(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "open_engine", finetune.open_engine)  # which `training` replaces
    run = tmp_path / "run"
    killed = []
    for call in kills(command(files, run), tmp_path / "trace", lambda: remove(run)):
        training.train(files / "bundle", run, files / "train.jsonl")
        assert_same(files, run)
        killed.append(call)
    assert {call.partition(" ")[0] for call in killed} >= {"fsync", "mkdir", "rename", "unlink"}
    assert len(killed) > 40


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_that_is_killed_a_hundred_times_ends_the_same(files: Path, tmp_path: Path) -> None:
    train(files, tmp_path / "run", "100", "0")
    assert_same(files, tmp_path / "run")


DIRECTORY = """
import sys
from pathlib import Path
from edgefuse_runtime.files.output import new_directory
with new_directory(Path(sys.argv[1]), marker="marker", overwrite=True) as folder:
    (folder / "inside").mkdir()
    for name in ("marker", "inside/file"):
        (folder / name).write_text(sys.argv[2])
"""


@pytest.mark.parametrize("there", [False, True])
def test_an_output_that_is_killed_at_any_call_is_the_old_one_or_the_new_one(
    tmp_path: Path, *, there: bool
) -> None:
    output, folder = tmp_path / "work" / "out", tmp_path / "work"
    script = [sys.executable, "-c", DIRECTORY, str(output)]
    states = set()

    def reset() -> None:
        remove(folder)
        folder.mkdir()
        if there:
            run([*script, "old"])

    for _ in kills([*script, "new"], tmp_path / "trace", reset):
        states.add(content(output))
        with new_directory(output, marker="marker", overwrite=True) as made:
            (made / "marker").write_text("after")
        assert [path.name for path in folder.iterdir()] == ["out"]
    assert states == ({"old", "new"} if there else {"", "new"})


def content(output: Path) -> str:
    """What both files of an output say; nothing where it is not there."""
    if not output.exists():
        return ""
    (text,) = {(output / name).read_text() for name in ("marker", "inside/file")}
    return text


def test_a_killed_conversion_leaves_nothing_once_the_next_has_run(
    files: Path, tmp_path: Path
) -> None:
    convert = [sys.executable, "-m", "edgefuse", "convert", str(files / "whole")]
    script = [*convert, str(tmp_path / "work" / "out"), "--to", "onnx", "--overwrite"]

    def reset() -> None:
        remove(tmp_path / "work")
        (tmp_path / "work").mkdir()

    for _ in kills(script, tmp_path / "trace", reset):
        run(script)
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["out"]
        names = {path.name for path in (tmp_path / "work" / "out").iterdir()}
        assert names == {"conversion.json", "model.onnx", "model.safetensors", "tokenizer.json"}
