"""What reaches MLPs while their model reads text, on the disk: only one MLP's is in memory."""

import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, NamedTuple, Self, overload

import numpy as np
import torch
from torch import Tensor

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.files.scratch import scratch_folder


class _Piece(NamedTuple):
    begin: int
    rows: int


class _NamelessFile:
    """A file that has no name, closed with the last object that has it."""

    def __init__(self) -> None:
        try:
            self.content: IO[bytes] = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115
        except OSError as error:
            raise _failed(error) from error

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # nobody wants what is not written; or none is open
            self.content.close()


def _failed(error: OSError) -> OutputError:
    return OutputError(
        f"What the MLPs are given cannot be kept in {scratch_folder()}: {error.strerror}",
        "Make room, or name a folder that has some: TMPDIR=… edgefuse compress …",
    )


@dataclass(frozen=True, eq=False)
class KeptInputs(Sequence[Tensor]):
    """For each MLP its inputs (n, p), float32, read anew each time that they are asked for.

    They lie in a file that has no name: nobody else can open it, and it is gone with the last of
    these objects that reads it, or the process, however it ends.

    Attributes:
        sizes: p of each MLP.
        device: Where inputs are given; None for the processor.
        file: Where they lie.
        pieces: Where in it each MLP's lie.
    """

    sizes: Sequence[int]
    device: torch.device | None = None
    file: _NamelessFile = field(default_factory=_NamelessFile, repr=False)
    pieces: dict[int, list[_Piece]] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> list[int]:
        """Count n of each MLP's inputs."""
        return [sum(piece.rows for piece in self._of(index)) for index in range(len(self))]

    def append(self, index: int, inputs: Tensor) -> None:
        """Keep some more inputs (n, p) of the MLP of that index.

        Raises:
            OutputError: The disk is full.
        """
        content, file = inputs.float().cpu().contiguous().numpy(), self.file.content
        try:
            begin = file.seek(0, 2)
            file.write(content.data)
            file.flush()
        except OSError as error:
            raise _failed(error) from error
        self.pieces.setdefault(index, []).append(_Piece(begin, len(content)))

    def without(self, indices: Collection[int]) -> Self:
        """The same, but for the MLPs of these indices, which have none."""
        return replace(self, pieces={i: self._of(i) for i in range(len(self)) if i not in indices})

    def __len__(self) -> int:
        """Count of MLPs."""
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Read the inputs (n, p) of an MLP."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        pieces = self._of(index)
        found = np.empty((sum(piece.rows for piece in pieces), self.sizes[index]), np.float32)
        at = 0
        for begin, rows in pieces:
            self.file.content.seek(begin)
            some = self.file.content.read(found[at : at + rows].nbytes)
            found[at : at + rows] = np.frombuffer(some, np.float32).reshape(rows, self.sizes[index])
            at += rows
        return torch.from_numpy(found).to(self.device)

    def _of(self, index: int) -> list[_Piece]:
        return self.pieces.get(index, [])
