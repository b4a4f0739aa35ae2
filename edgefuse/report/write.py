"""One file, whole or not at all."""

import os
from pathlib import Path

from edgefuse_devices.errors import OutputError


def check_output_file(path: Path) -> None:
    """Refuse early what could not be written late; a file that is there is replaced.

    Raises:
        OutputError: It is a directory, or its directory is not there or cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a directory", "Name a file")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} is not there", "Make it first, or name another place")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"{path} cannot be written", "Name another place")


def write_file(path: Path, content: bytes) -> None:
    """Write beside and rename.

    Raises:
        OutputError: The disk is full, or similar.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
