"""The file that a command writes: checked early, written late."""

import os
from pathlib import Path

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.files.replace import write_bytes


def check_output_file(path: Path) -> None:
    """Refuse early a file that could not be written later.

    Raises:
        OutputError: The path is a directory, or its directory is not there or cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a directory", "Name a file")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.parent} is not there", "Make it first, or name another place")
    if not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"{path} cannot be written", "Name another place")


def write_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: The file cannot be written, because the disk is full for example.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
