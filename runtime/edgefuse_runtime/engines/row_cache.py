"""What the frozen layers below the lowest trained one give for a row, kept on the disk.

Without dropout it is the same in every epoch, so that from the second one on training starts above
them.
"""

import errno
import tempfile
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.data.batching import Feeds, lengths_of

Frozen = Callable[[Feeds], NDArray[np.float32]]
"""What frozen layers give for a batch, (rows, tokens, hidden)."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_KEY_BYTES = 16  # two of a billion rows are alike by chance once in 10^20


class RowCache:
    """Rows by what they are made of, in a file that has no name.

    Nobody else can open it, and it is gone when the context ends, or the process, however it does.

    Attributes:
        bytes: What is kept.
    """

    def __init__(self, folder: Path, *, budget: int) -> None:
        """Begin with no rows; the file is made for the first one.

        Args:
            folder: Where the file is to be; it may be made later.
            budget: Bytes that rows may take; those that find no place are computed every time.
        """
        self.bytes = 0
        self._width = 0
        self._folder, self._budget = folder, budget
        self._begins: dict[bytes, int] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget everything."""
        if self._file is not None:
            self._file.close()

    def through(self, feeds: Feeds, names: Collection[str], frozen: Frozen) -> NDArray[np.float32]:
        """What frozen layers give, of which only rows that are not kept are computed.

        Args:
            feeds: A batch, padded on the right.
            names: What of it the layers are given, (rows, tokens) each.
            frozen: Computes them: of a row the same, whatever rows are beside it.

        Returns:
            (rows, tokens, hidden); zeros in place of the padding of rows that are kept.
        """
        lengths = lengths_of(feeds).tolist()
        rows = [_Row(_key(feeds, names, i, n), n) for i, n in enumerate(lengths)]
        absent = [index for index, row in enumerate(rows) if row.key not in self._begins]
        if len(absent) == len(rows):
            computed = frozen(feeds)
            self._keep(rows, computed)
            return computed
        found = np.zeros((*feeds["input_ids"].shape, self._width), np.float32)
        if absent:
            computed = frozen({name: feeds[name][absent] for name in names})
            found[absent] = computed
            self._keep([rows[index] for index in absent], computed)
        for index in {*range(len(rows))} - {*absent}:
            key, tokens = rows[index]
            self._read(self._begins[key], found[index, :tokens])
        return found

    def _keep(self, rows: Sequence["_Row"], computed: NDArray[np.float32]) -> None:
        """Write rows, as many as find a place."""
        self._width = computed.shape[-1]
        for (key, tokens), hidden in zip(rows, computed, strict=True):
            content = hidden[:tokens].tobytes()
            if self.bytes + len(content) > self._budget or key in self._begins:
                continue
            if not self._write(content):
                return
            self._begins[key] = self.bytes
            self.bytes += len(content)

    def _write(self, content: bytes) -> bool:
        """Write what is kept of a row; a disk that is full ends the keeping, and nothing else."""
        try:
            file = self._opened()
            file.seek(self.bytes)
            written = file.write(content)
        except OSError as error:
            if error.errno not in _FULL:
                raise self._failed("written", error) from error
            written = 0
        if written == len(content):
            return True
        self._budget = self.bytes  # what is kept already serves
        return False

    def _read(self, begin: int, out: NDArray[np.float32]) -> None:
        try:
            file = self._opened()
            file.seek(begin)
            content = file.read(out.nbytes)
        except OSError as error:
            raise self._failed("read", error) from error
        out[...] = np.frombuffer(content, np.float32).reshape(out.shape)

    def _failed(self, what: str, error: OSError) -> OutputError:
        return OutputError(
            f"What is kept of rows in {self._folder} cannot be {what}: {error.strerror}",
            "Train with --cache 0, which keeps nothing",
        )

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        return self._file


class _Row(NamedTuple):
    key: bytes
    tokens: int


def _key(feeds: Feeds, names: Collection[str], row: int, tokens: int) -> bytes:
    """What a row is made of, in few bytes."""
    digest = blake2b(digest_size=_KEY_BYTES)
    for name in sorted(names):
        digest.update(feeds[name][row, :tokens].tobytes())
    return digest.digest()
