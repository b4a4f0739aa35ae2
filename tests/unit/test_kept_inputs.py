"""What reaches the MLPs is kept on the disk, and only there."""

import tempfile
from pathlib import Path

import pytest
import torch

from edgefuse.compression import kept_inputs
from edgefuse.compression.kept_inputs import KeptInputs
from edgefuse_devices.errors import OutputError


def test_each_mlp_gets_its_own_back_in_order() -> None:
    kept = KeptInputs([3, 5, 3])
    first, second, other = torch.randn(4, 3), torch.randn(2, 3), torch.randn(7, 5)
    kept.append(0, first)
    kept.append(1, other.double())
    kept.append(0, second)
    assert kept.counts == [6, 7, 0]
    zero, one, two = kept
    assert torch.equal(zero, torch.cat([first, second]))
    assert torch.equal(one, other)
    assert two.shape == (0, 3)
    assert all(torch.equal(*pair) for pair in zip(kept[:2], (zero, one), strict=True))
    assert torch.equal(kept[-2], other)
    with pytest.raises(IndexError):
        kept[3]


def test_a_batch_that_an_expert_gets_nothing_of_is_nothing() -> None:
    kept = KeptInputs([3])
    for rows in (torch.zeros(0, 3), torch.ones(2, 3), torch.zeros(0, 3)):
        kept.append(0, rows)
    assert torch.equal(kept[0], torch.ones(2, 3))


def test_a_folder_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_inputs, "scratch_folder", lambda: "/not/there")
    with pytest.raises(OutputError, match="cannot be kept in /not/there: No such file"):
        KeptInputs([3])


def test_without_some_the_others_are_the_same() -> None:
    kept = KeptInputs([3, 3])
    rows = torch.randn(4, 3)
    for index in range(2):
        kept.append(index, rows)
    fewer = kept.without({0})
    assert fewer.counts == [0, 4]
    assert kept.counts == [4, 4]
    assert torch.equal(fewer[1], rows)


def test_what_is_read_is_a_copy() -> None:
    kept = KeptInputs([2])
    kept.append(0, torch.ones(3, 2))
    kept[0].zero_()
    assert torch.equal(kept[0], torch.ones(3, 2))


def test_there_is_no_file_that_others_could_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    kept = KeptInputs([2])
    kept.append(0, torch.ones(3, 2))
    assert not list(tmp_path.iterdir())
    assert len(kept[0]) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_sentence() -> None:
    kept = KeptInputs([2])
    kept.file.content.close()
    kept.file.content = Path("/dev/full").open("wb")  # noqa: SIM115 - it closes it
    with pytest.raises(OutputError, match=r"cannot be kept in .*: No space left") as error:
        kept.append(0, torch.ones(3, 2))
    assert "TMPDIR" in str(error.value.hint)
