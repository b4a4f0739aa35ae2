"""metrics.jsonl: a line per step, per evaluation, and for what happened to the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.files.regular import regular
from edgefuse_runtime.files.replace import remedy
from edgefuse_runtime.training.records import MetricsRecord


class MetricsLog:
    """Lines that are appended after a given length of the file.

    Attributes:
        lost: Bytes that the file should have had and has not: it was cut.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Open the file and drop what follows `length` bytes: steps that no checkpoint holds.

        Of a file that is shorter, half a line at the end is dropped too.

        Raises:
            OutputError: It cannot be opened, or is no regular file.
        """
        self._path = path
        with self._translated_errors():
            self._file = open(path, "a+b", opener=regular)  # noqa: SIM115 - closed by __exit__
            there = self._file.seek(0, os.SEEK_END)
            whole = length if there >= length else self._after_last_line()
            self.lost = length - whole
            self._file.truncate(whole)
            self._file.seek(0, os.SEEK_END)

    def write(self, record: MetricsRecord) -> None:
        """Append a line.

        Raises:
            OutputError: The disk is full, say.
        """
        with self._translated_errors():
            self._file.write(msgspec.json.encode(record) + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Bring the file to the disk.

        Returns:
            Its length in bytes.

        Raises:
            OutputError: The disk is full, say.
        """
        with self._translated_errors():
            os.fsync(self._file.fileno())
            return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # of a line that `write` has refused already
            self._file.close()

    def _after_last_line(self) -> int:
        self._file.seek(0)
        return self._file.read().rfind(b"\n") + 1

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}",
                f"{remedy(error)} and go on with --resume",
            ) from error


def read_metrics(path: Path) -> list[MetricsRecord]:
    """Read metrics.jsonl."""
    decoder: msgspec.json.Decoder[MetricsRecord] = msgspec.json.Decoder(MetricsRecord)
    return decoder.decode_lines(path.read_bytes())
