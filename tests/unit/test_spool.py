"""Examples that lie on the disk: the same as in memory, whatever their class."""

import errno
import gc
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.data import spool
from edgefuse_runtime.data.batching import Dataset, kept
from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.spool import Spool
from edgefuse_runtime.data.tokenization import TokenIds


class Example(NamedTuple):
    token_ids: TokenIds
    label: Any = None
    words: tuple[str, ...] = ()


EXAMPLES = [
    Example(np.arange(5, dtype=np.int32), 3, ("lamp", "\u4f60")),
    Example(np.array([7], np.int32), np.ones(2, np.float32)),
    Example(np.array([2, 2], np.int32), None, ("",)),
    Example(np.array([], np.int32), np.float64(0.1)),
]


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(params=["in memory", "on the disk"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "on the disk":
        monkeypatch.setattr(spool, "_IN_MEMORY", 10)
    return tmp_path


def alike(one, other):
    arrays = (np.array_equal(one.token_ids, other.token_ids), np.all(one.label == other.label))
    return all(arrays) and one.words == other.words and type(one) is type(other)


def test_examples_come_back_as_they_were(folder):
    held = Spool(iter(EXAMPLES), folder)
    assert len(held) == len(EXAMPLES)
    assert all(alike(*pair) for pair in zip(held, EXAMPLES, strict=True))
    assert alike(held[-1], EXAMPLES[-1])
    assert alike(held[1:3][1], EXAMPLES[2])
    assert held[0].token_ids.dtype == np.int32
    with pytest.raises(IndexError):
        held[len(EXAMPLES)]
    assert not list(folder.iterdir()), "the file has a name"


def test_a_data_set_knows_lengths_and_token_ids_of_what_is_on_the_disk(folder):
    there, here = kept(iter(EXAMPLES[:3]), folder), Dataset(EXAMPLES[:3])
    for dataset in (there, here):
        assert dataset.lengths.tolist() == [5, 1, 2]
        assert dataset.token_ids.tolist() == [0, 1, 2, 3, 4, 7]
        assert dataset.rows == 3
        assert dataset.row_numbers(np.array([2, 0])) == [1, 3]


def test_a_sequence_stays_in_memory(tmp_path):
    assert kept(EXAMPLES, tmp_path / "nowhere").examples is EXAMPLES


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    held = Spool(EXAMPLES, tmp_path)
    monkeypatch.setattr(type(held._file), "write", full)
    with pytest.raises(OutputError, match="cannot hold the tokens of the data: No space left"):
        Spool(EXAMPLES, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(spool, "_IN_MEMORY", 10)
    with pytest.raises(OutputError, match="cannot hold the tokens of the data: No such file"):
        Spool(EXAMPLES, tmp_path / "nowhere")


def test_a_disk_that_is_nearly_full_is_a_sentence(tmp_path):
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from edgefuse_devices.errors import OutputError\n"
        "from edgefuse_runtime.data.spool import Spool\n"
        "from typing import NamedTuple\n"
        "class Text(NamedTuple):\n"
        "    text: str\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 20, 9 << 20))\n"
        "try:\n"
        "    Spool((Text('a' * (1 << 20)) for _ in range(9)), Path(sys.argv[1]))\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot hold the tokens of the data: File too large" in done.stdout


def test_no_examples_have_no_lengths():
    assert Dataset([]).lengths.tolist() == []
    assert Dataset([]).rows == 0


def test_the_file_is_closed_with_the_last_who_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_IN_MEMORY", 10)
    gc.collect()  # what other tests left open is not to be closed meanwhile
    before = open_files()
    held = Spool(EXAMPLES, tmp_path)
    assert open_files() == before + 1
    del held
    gc.collect()
    assert open_files() == before


def test_a_chunk_has_few_items_and_few_characters():
    assert [len(chunk) for chunk in chunks(range(2500), lambda _: 1)] == [1024, 1024, 452]
    long = 200_000
    assert [len(chunk) for chunk in chunks(range(5), lambda _: long)] == [2, 2, 1]
    numbers = count()
    next(chunks(numbers, lambda _: 1))
    assert next(numbers) == 1024, "more was read than the chunk has"
    assert not list(chunks([], len))
