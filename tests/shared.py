"""What is costly to make is made once in a test run: its workers share one folder.

The folder ends with the run. A later one could not tell what has changed since, and would not
measure the coverage of what made it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_VARIABLE = "EDGEFUSE_TEST_SHARED"


def open_folder() -> None:
    """Make the folder; processes that are started from now on share it."""
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="edgefuse-tests-")


def close_folder() -> None:
    """Remove the folder with all that is in it."""
    shutil.rmtree(os.environ.pop(_VARIABLE), ignore_errors=True)


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Give the path of something to read; whoever asks first makes it, and others wait.

    Args:
        name: Name of the file or directory, the same for the same thing only.
        make: Writes it to a path that does not exist yet.
    """
    folder = Path(os.environ[_VARIABLE])
    path, unfinished = folder / name, folder / f"{name}.unfinished"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(unfinished)
            unfinished.rename(path)
    return path
