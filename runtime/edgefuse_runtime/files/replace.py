"""One file, written whole or not at all: beside its place, brought to the disk, renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgefuse_runtime.files.modes import share


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write, and put it in its place when the block ends.

    A crash at any moment leaves either the old file or the new one, and both whole.

    Args:
        path: The file to make or to replace.

    Yields:
        The file to write.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        yield beside
        share(beside)
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    with replaced(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, obj: Any) -> None:
    """Write a struct as a JSON file for people and programs, whole or not at all.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    write_bytes(path, msgspec.json.format(msgspec.json.encode(obj), indent=2) + b"\n")


def sync(path: Path) -> None:
    """Bring a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that cannot, for directories
            raise
    finally:
        os.close(descriptor)


__all__ = ["replaced", "sync", "write_bytes", "write_json"]
