"""Files opened as what they must be: regular ones, neither links nor folders, pipes or devices."""

import errno
import os
import stat
from pathlib import Path

_PRIVATE = 0o600

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a regular file, in place of `os.open`: `open(path, "rb", opener=regular)`.

    A link is not followed, and nothing waits for the other end of a pipe. A new file is its
    owner's alone.

    Returns:
        The descriptor.

    Raises:
        OSError: The file is not there, cannot be opened, or is something else.
    """
    check_regular(Path(path))
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _PRIVATE)
    try:
        _refuse(path, os.fstat(descriptor).st_mode)  # what is there now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: Path) -> None:
    """Refuse what is there and is no regular file, without opening it.

    Raises:
        OSError: It is something else, or nobody may look.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    _refuse(path, mode)


def is_regular(path: Path) -> bool:
    """Whether a regular file is there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _refuse(path: str | os.PathLike[str], mode: int) -> None:
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind:
        raise OSError(errno.EINVAL, f"it is {kind}, and no file", str(path))
