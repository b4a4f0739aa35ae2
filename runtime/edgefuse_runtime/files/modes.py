"""Who may read files and folders: as others of this user, or their owner alone."""

import os
from contextlib import suppress
from pathlib import Path


def share(path: Path) -> None:
    """Let others read and write a file or folder as far as the umask lets them."""
    mask = os.umask(0)
    os.umask(mask)
    wanted = (0o777 if path.is_dir() else 0o666) & ~mask
    with suppress(PermissionError):  # of a file system that knows no modes, as on a memory card
        path.chmod(path.stat().st_mode | wanted)


def protect(path: Path) -> None:
    """Let the owner alone read and write a file."""
    with suppress(PermissionError):
        path.chmod(0o600)
