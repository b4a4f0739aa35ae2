"""A disk that fills up is one sentence, and what was there before is still there."""

import errno
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgefuse.artifact import record
from edgefuse.demo import walkthrough
from edgefuse.hub.source import find_source
from edgefuse.squeezing import record as squeeze_record
from edgefuse_devices.errors import ModelError, OutputError
from edgefuse_runtime.bundle import bundle
from edgefuse_runtime.converting import convert
from edgefuse_runtime.files.exchange import exchange
from edgefuse_runtime.files.output import check_replaceable, new_directory
from edgefuse_runtime.files.replace import sync, write_bytes
from edgefuse_runtime.files.tensor_file import replace_tensors, write_tensors
from edgefuse_runtime.training import run
from edgefuse_runtime.training.metrics_log import MetricsLog
from edgefuse_runtime.training.records import EvaluationRecord


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
    monkeypatch.setattr("edgefuse_runtime.files.output._DISK", {errno.ENOENT})
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
    line = EvaluationRecord(step=1, epoch=1, figures={"accuracy": 1.0}, is_best=True)
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), log._file.fileno())
        with pytest.raises(
            OutputError, match=r"metrics\.jsonl cannot be written: No space.*--resume"
        ):
            log.write(line)


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    with (
        pytest.raises(OutputError, match=r"mount point.*Name a folder inside it"),
        new_directory(out, marker="x"),
    ):
        pytest.fail("the block began")
    with new_directory(out / "inside", marker="x") as folder:
        (folder / "x").write_text("made")
    assert (out / "inside" / "x").exists()


def test_a_link_is_followed_to_the_disk_that_it_names(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for word in ("one", "two"):
        with new_directory(tmp_path / "out", marker="x", overwrite=True) as folder:
            assert folder.parent == tmp_path
            (folder / "x").write_text(word)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "x").read_text() == "two"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system here")
def test_a_link_to_another_disk_is_no_mount_point(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "out").symlink_to(elsewhere)
        check_replaceable(tmp_path / "out", "x", overwrite=False)


def test_what_links_in_the_folder_point_to_is_left_alone(tmp_path):
    secret = tmp_path / "secret"
    secret.touch(mode=0o400)
    with new_directory(tmp_path / "out", marker="x") as folder:
        (folder / "link").symlink_to(secret)
        (folder / "broken").symlink_to(tmp_path / "nowhere")
    assert secret.stat().st_mode & 0o777 == 0o400


def test_everything_is_on_the_disk_before_the_directory_has_its_name(tmp_path, monkeypatch):
    synced = []

    def note(path):
        synced.append((path.name, (tmp_path / "out").exists()))

    monkeypatch.setattr("edgefuse_runtime.files.output.sync", note)
    with new_directory(tmp_path / "out", marker="x") as folder:
        (folder / "inside").mkdir()
        for name in ("x", "inside/y"):
            (folder / name).write_text("")
    assert {name for name, there in synced if not there} == {folder.name, "inside", "x", "y"}
    assert synced[-1] == (tmp_path.name, True)


def test_what_is_written_is_as_readable_as_other_files_of_the_user(tmp_path):
    before = os.umask(0o027)
    try:
        with new_directory(tmp_path / "out", marker="x") as folder:
            save_file({"weight": np.zeros(3, np.float32)}, folder / "weights")
            (folder / "tool").touch(mode=0o700)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"out": 0o750, "weights": 0o640, "tool": 0o740}


def test_an_array_of_any_strides_is_written_as_it_reads(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "x", {"turned": array.T, "every other": array[:, ::2]})
    stored = load_file(tmp_path / "x")
    np.testing.assert_array_equal(stored["turned"], array.T)
    np.testing.assert_array_equal(stored["every other"], array[:, ::2])


def test_checkpoints_are_their_owners_alone(tmp_path):
    replace_tensors(tmp_path / "last", {"weight": np.zeros(3, np.float32)}, {})
    assert (tmp_path / "last").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at_once", [True, False])
def test_an_output_is_exchanged_or_where_that_cannot_be_moved_aside(tmp_path, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr("edgefuse_runtime.files.output.exchange", lambda *_: False)
    for text in ("old", "new"):
        with new_directory(tmp_path / "out", marker="x", overwrite=True) as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "out/x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_change_places(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one/other").exists()
    assert (tmp_path / "other/one").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "absent")


def test_what_killed_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path):
    dead, moved = ".out.abcdefgh.unfinished", ".out.01234567.replaced"
    for name in (dead, moved, ".out.notes", ".outer.abcdefgh.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    with new_directory(tmp_path / "out", marker="x", overwrite=True) as folder:
        (folder / "x").write_text("made")
        (put_back,) = [path for path in tmp_path.iterdir() if path.name == "out"]
        assert (put_back / "x").read_text() == moved
        check_replaceable(tmp_path / "out", "x", overwrite=True)
        assert folder.exists()
    assert (tmp_path / "out/x").read_text() == "made"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", ".out.notes", ".outer.abcdefgh.unfinished"}


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_bytes(tmp_path / "report", b"before")

    def full(_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgefuse_runtime.files.replace.sync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "report", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("report", b"before")
    ]


def test_a_file_system_without_modes_is_written_all_the_same(tmp_path, monkeypatch):
    def refuse(_path, _mode):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    with new_directory(tmp_path / "out", marker="x") as folder:
        (folder / "x").write_text("made")
    assert (tmp_path / "out" / "x").read_text() == "made"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_only_a_file_system_that_cannot_sync_is_let_off(tmp_path, monkeypatch, number):
    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with nullcontext() if number == errno.EINVAL else pytest.raises(OSError, match="error"):
        sync(tmp_path)


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        (run.RECORD, "a run"),
        (bundle.MANIFEST, "a bundle"),
        (convert.MARKER, "a conversion"),
        (squeeze_record.RECORD, "a squeeze"),
        (walkthrough.SCRIPT, "a demo"),
        (record.RECORD, "a compressed model"),
    ],
)
def test_another_kind_of_folder_is_called_what_it_is(tmp_path, marker, kind):
    (tmp_path / marker).write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        OutputError, match=rf"holds what looks like {kind} \(it has no other\.json\)"
    ):
        check_replaceable(tmp_path, "other.json", overwrite=True)


@pytest.mark.parametrize("marker", [run.RECORD, bundle.MANIFEST])
def test_a_folder_that_is_no_model_is_called_what_it_is(tmp_path, marker):
    (tmp_path / marker).write_text("{}")
    with pytest.raises(ModelError, match=r"not a model.*edgefuse convert .* --to transformers"):
        find_source(str(tmp_path))
    with pytest.raises(ModelError, match="The model has no name"):
        find_source("")
