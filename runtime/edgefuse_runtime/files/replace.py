"""One file, written whole or not at all: beside its place, brought to the disk, renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgefuse_runtime.files.modes import protect, share
from edgefuse_runtime.files.regular import is_regular, regular


@contextmanager
def replaced(path: Path, *, private: bool = False, before: Path | None = None) -> Iterator[Path]:
    """Give a file beside `path` to write, and put it in its place when the block ends.

    A crash at any moment leaves the old file or the new one, and what is there whole. With
    `before`, the moment between two renamings has the old file there alone. A link is replaced
    itself, and not what it points to.

    Args:
        path: The file to make or to replace.
        private: Whether it is its owner's alone.
        before: Where to put the file that is replaced; None deletes it. What was there goes first:
            no more than two of them are on the disk at a time.

    Yields:
        The file to write. It is not there yet.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    beside = beside_of(path)
    beside.unlink(missing_ok=True)
    if before is not None and is_regular(path):
        before.unlink(missing_ok=True)
    try:
        yield beside
        (protect if private else share)(beside)
        sync(beside)
        if before is not None and is_regular(path):
            path.replace(before)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def remedy(error: Exception) -> str:
    """What to do about a file that cannot be written: the beginning of a sentence."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EROFS:
        return "Mount the disk for writing (`dmesg` may say why the system does not)"
    if number == errno.EIO:
        return "Look after the disk, which is failing (`dmesg` may say more),"
    return "Make room on the disk"


def beside_of(path: Path) -> Path:
    """The file that is written beside one, and that a crash leaves."""
    return path.with_name(f".{path.name}.new")


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file to make or to replace.
        content: What it is to hold.
        private: Whether it is its owner's alone.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    with replaced(path, private=private) as beside, open(beside, "xb", opener=regular) as file:
        file.write(content)


def write_json(path: Path, obj: Any, *, private: bool = False) -> None:
    """Write a struct as a JSON file for people and programs, whole or not at all.

    Args:
        path: The file to make or to replace.
        obj: The struct.
        private: Whether it is its owner's alone.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    content = msgspec.json.format(msgspec.json.encode(obj), indent=2) + b"\n"
    write_bytes(path, content, private=private)


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
