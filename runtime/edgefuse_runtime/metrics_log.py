"""metrics.jsonl: a line per step and per evaluation."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from edgefuse_runtime.records import EvaluationRecord, StepRecord


class MetricsLog:
    """Lines that are appended after a given length of the file."""

    def __init__(self, path: Path, length: int) -> None:
        """Open the file and drop what follows `length` bytes: steps that no checkpoint holds."""
        self._file = path.open("ab")
        self._file.truncate(min(length, self._file.tell()))
        self._file.seek(0, os.SEEK_END)

    def write(self, record: StepRecord | EvaluationRecord) -> None:
        """Append a line."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Bring the file to the disk.

        Returns:
            Its length in bytes.
        """
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
        self._file.close()


def read_metrics(path: Path) -> list[StepRecord | EvaluationRecord]:
    """Read metrics.jsonl."""
    lines: list[StepRecord | EvaluationRecord] = msgspec.json.Decoder(
        StepRecord | EvaluationRecord
    ).decode_lines(path.read_bytes())
    return lines
