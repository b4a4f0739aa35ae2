"""A checkpoint is whole, or the one before is still there."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgefuse_devices.errors import OutputError, RunError
from edgefuse_runtime.files.tensor_file import map_tensors, read_metadata
from edgefuse_runtime.training.checkpoint import Best, Progress, load_checkpoint, save_checkpoint

TENSORS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "flags": np.array([True, False, True]),
    "ids": np.arange(3),
    "scalar": np.array(7, np.float32),
    "nothing": np.zeros((0, 4), np.float32),
}
PROGRESS = Progress(step=7, evaluations=1, best=Best(epoch=1, step=5, figures={"accuracy": 0.5}))


def save(path, tensors=TENSORS, progress=PROGRESS):
    save_checkpoint(path, tensors, progress, bundle_id="abc")


def test_tensors_and_progress_come_back(tmp_path):
    save(tmp_path / "last.safetensors")
    tensors, progress = load_checkpoint(tmp_path / "last.safetensors", bundle_id="abc")
    assert progress == PROGRESS
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_mapped_tensors_are_those_of_the_library_and_cannot_be_written(tmp_path):
    save_file(TENSORS, tmp_path / "x", {"note": "hello"})
    mapped, loaded = map_tensors(tmp_path / "x"), load_file(tmp_path / "x")
    assert all(mapped[name].tobytes() == loaded[name].tobytes() for name in TENSORS)
    assert read_metadata(tmp_path / "x") == {"note": "hello"}
    with pytest.raises(ValueError, match="read-only"):
        mapped["weight"][0] = 1


def test_a_file_without_tensors_maps_to_nothing(tmp_path):
    save_file({}, tmp_path / "x")
    assert map_tensors(tmp_path / "x") == {}


def test_a_header_that_is_a_list_is_refused(tmp_path):
    (tmp_path / "x").write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        map_tensors(tmp_path / "x")


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_a_checkpoint_that_was_cut_short_is_refused(tmp_path, length):
    path = tmp_path / "last.safetensors"
    save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"last\.safetensors is no whole checkpoint"):
        load_checkpoint(path, bundle_id="abc")


def test_a_checkpoint_of_another_bundle_is_refused(tmp_path):
    save(tmp_path / "last.safetensors")
    with pytest.raises(RunError, match="checkpoint of another bundle"):
        load_checkpoint(tmp_path / "last.safetensors", bundle_id="def")


def test_a_checkpoint_that_is_not_there_says_how_to_get_one(tmp_path):
    with pytest.raises(RunError, match="--resume"):
        load_checkpoint(tmp_path / "best.safetensors", bundle_id="abc")


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "Make room"), (errno.EROFS, "Mount the disk for writing")]
)
@pytest.mark.parametrize("stage", ["tensor_file.save_file", "replace.sync"])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, stage, number, hint):
    path = tmp_path / "last.safetensors"
    save(path)

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"edgefuse_runtime.files.{stage}", full)
    with pytest.raises(OutputError, match=rf"{os.strerror(number)}.*{hint}"):
        save(path, progress=Progress(step=8))
    assert load_checkpoint(path, bundle_id="abc")[1].step == 7
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


WRITER = """
import sys
import numpy as np
from pathlib import Path
from edgefuse_runtime.training.checkpoint import Progress, save_checkpoint
for step in range(1, 10**6):
    tensors = {str(i): np.full(20_000, step, np.float32) for i in range(4)}
    save_checkpoint(Path(sys.argv[1]), tensors, Progress(step=step), bundle_id="abc")
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "last.safetensors"
    for attempt in range(8):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, path])
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.0037 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        tensors, progress = load_checkpoint(path, bundle_id="abc")
        assert progress.step > 0
        assert all((tensor == progress.step).all() for tensor in tensors.values())
