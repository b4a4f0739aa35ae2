"""Two directories that change places in one step, so that one of them is there at any moment."""

import ctypes
import errno
import os
from pathlib import Path

_HERE = -100
"""AT_FDCWD: relative paths are the process's own."""

_EXCHANGE = 2
"""RENAME_EXCHANGE (renameat2(2), Linux 3.15)."""

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> bool:
    """Let two directories of one file system change places.

    Returns:
        Whether they have; not where the system or the file system cannot.

    Raises:
        OSError: One is not there, say.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one))
