"""A disk that fills up is one sentence, and what was there before is still there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.metrics_log import MetricsLog
from edgefuse_runtime.output import new_directory
from edgefuse_runtime.records import EvaluationRecord


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fills_up_leaves_no_directory(tmp_path, number):
    with (
        pytest.raises(OutputError, match=r"out cannot be written.*Make room"),
        new_directory(tmp_path / "out", marker="x"),
    ):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_safetensors_own_writer_says_the_same_of_the_disk(tmp_path, monkeypatch):
    tensors = {"weight": np.zeros(3, np.float32)}
    with pytest.raises(SafetensorError), new_directory(tmp_path / "out", marker="x") as folder:
        save_file(tensors, folder / "absent/x")
    # A full disk cannot be had here: let what can be had, a missing folder, stand for it.
    monkeypatch.setattr("edgefuse_runtime.output._DISK", {errno.ENOENT})
    with (
        pytest.raises(OutputError, match=r"out cannot be written: No such file.*Make room"),
        new_directory(tmp_path / "out", marker="x") as folder,
    ):
        save_file(tensors, folder / "absent/x")
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "out", marker="x"):
        (tmp_path / "absent").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_line_of_metrics_that_finds_no_room_is_one_sentence(tmp_path):
    record = EvaluationRecord(step=1, epoch=1, accuracy=1.0, macro_f1=1.0, loss=0.0, is_best=True)
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), log._file.fileno())
        with pytest.raises(
            OutputError, match=r"metrics\.jsonl cannot be written: No space.*--resume"
        ):
            log.write(record)
