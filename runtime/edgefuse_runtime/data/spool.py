"""Examples of a data file of any size, of which only a few megabytes are in memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Generic, TypeVar, overload

import numpy as np
from msgspec.msgpack import Decoder, Encoder, Ext

from edgefuse_devices.errors import OutputError

T = TypeVar("T")

_IN_MEMORY = 8 << 20


class Spool(Sequence[T], Generic[T]):
    """Named tuples of arrays, numbers and texts, encoded one by one.

    Few stay in memory; more go to a file that has no name: nobody else can open it, and it is gone
    with the process, however that ends. The system keeps of it what it has memory for.
    """

    def __init__(self, items: Iterable[T], folder: Path) -> None:
        """Take all items, which are of one class.

        Args:
            items: What is kept.
            folder: Where the file is to be.

        Raises:
            OutputError: The disk is full, or the folder cannot be written to.
        """
        self._file = SpooledTemporaryFile(_IN_MEMORY, "w+b", dir=str(folder))  # noqa: SIM115
        self._ends = array("Q", [0])
        encoder = Encoder(enc_hook=_encoded)
        kind: type[Any] = object
        for item in items:  # what may fail in here is not the file
            kind = type(item)
            raw = encoder.encode(item)
            with _translated(folder):
                self._file.write(raw)
            self._ends.append(self._ends[-1] + len(raw))
        with _translated(folder):
            self._file.flush()
        self._decoder: Decoder[T] = Decoder(kind, ext_hook=_array, dec_hook=_as_it_is)

    def __del__(self) -> None:
        """Close the file."""
        with suppress(OSError, AttributeError):  # nobody wants what is not written; or none is open
            self._file.close()

    def __len__(self) -> int:
        """Count of items."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Decode an item, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin, end = self._ends[index : index + 2]
        self._file.seek(begin)
        return self._decoder.decode(self._file.read(end - begin))

    def __iter__(self) -> Iterator[T]:
        """Decode all items in order."""
        return (self[index] for index in range(len(self)))


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder} cannot hold the tokens of the data: {error.strerror}",
            "Make room there, or give fewer rows",
        ) from error


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return Ext(ord(value.dtype.char), value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value)} cannot be kept")


def _array(code: int, content: memoryview) -> np.ndarray:
    return np.frombuffer(content, np.dtype(chr(code)))


def _as_it_is(_: type, value: Any) -> Any:
    return value
