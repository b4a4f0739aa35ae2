"""A directory that is whole or not there at all."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from edgefuse_devices.errors import OutputError
from edgefuse_runtime.files.exchange import exchange
from edgefuse_runtime.files.folder_kinds import kind_of
from edgefuse_runtime.files.modes import share
from edgefuse_runtime.files.replace import sync

_UNFINISHED, _REPLACED = ".unfinished", ".replaced"
"""What folders beside an output end with: those being written, and those that had its place."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def new_directory(
    path: Path, *, marker: str, overwrite: bool = False, needed_bytes: int = 0
) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write into, and rename it to `path` at the end.

    Whatever ends the block early, Ctrl-C included, removes the temporary directory and leaves
    `path` as it was. So does a kill or a power cut, and the next directory that is made at `path`
    removes what they leave. A link is followed.

    Args:
        path: The directory to make; it may exist when it is empty.
        marker: Name of the file by which EdgeFuse knows its own directories, such as
            `edgefuse.json`.
            Only a directory that holds it is ever replaced.
        overwrite: Replace what is there.
        needed_bytes: Expected size of what will be written.

    Yields:
        The directory to write into.

    Raises:
        OutputError: `path` is a file, a mount point or not empty, or the disk is too small: raised
            before the block begins. Or the disk got full in the block.
    """
    path = Path(os.path.realpath(path))  # unlike resolve, without a word of links that go in rings
    check_replaceable(path, marker, overwrite=overwrite)
    check_space(path, needed_bytes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path, _UNFINISHED)
        held = os.open(temporary, os.O_RDONLY)
        _locked(held)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be made: {error.strerror}", "Choose another output folder"
        ) from error
    try:
        yield temporary
        _settle(temporary)
        _replace(path, temporary)
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number not in _DISK:
            raise
        raise OutputError(
            f"{path} cannot be written: {os.strerror(number)}",
            "Make room, or choose a folder on another disk",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


def check_replaceable(path: Path, marker: str, *, overwrite: bool) -> None:
    """Check that `new_directory` may make a directory; the arguments are its.

    What killed processes left beside it is removed first, or put back in its place.

    Raises:
        OutputError: `path` is a file or a mount point, or is not empty.
    """
    _recover(Path(os.path.realpath(path)))
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file", "Name a folder that is not there yet")
    if os.path.ismount(os.path.realpath(path)):
        raise OutputError(
            f"{path} is a mount point, which cannot be replaced whole", "Name a folder inside it"
        )
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / marker).is_file():
        kind = kind_of(path)
        content = f"what looks like {kind}" if kind else "files that EdgeFuse did not write"
        raise OutputError(
            f"{path} is not empty, and holds {content} (it has no {marker}), so it is not "
            "overwritten",
            "Name another folder, or empty this one yourself",
        )
    if not overwrite:
        raise OutputError(
            f"{path} is not empty", "Name another folder, or replace this one with --overwrite"
        )


def disk_of(path: Path) -> Path:
    """The folder on whose disk `path` is, or would be."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def free_space(path: Path) -> int:
    """Bytes that are free on the disk on which `path` is, or would be."""
    return shutil.disk_usage(disk_of(path)).free


def check_space(path: Path, needed_bytes: int) -> None:
    """Check that the disk on which `path` is, or would be, has room.

    Raises:
        OutputError: It has not.
    """
    free = free_space(path)
    if free < needed_bytes:
        raise OutputError(
            f"{path} needs about {needed_bytes / 1e6:,.0f} MB and only {free / 1e6:,.0f} MB are "
            f"free on its disk",
            "Make room, or choose a folder on another disk",
        )


def _settle(directory: Path) -> None:
    """Bring it to the disk with all that it holds, as readable as files of this user are."""
    for path in [*directory.rglob("*"), directory]:
        if not path.is_symlink():  # what one points to is not ours
            share(path)
            sync(path)


def _replace(path: Path, temporary: Path) -> None:
    """Put a directory into its place; what is there comes to the temporary one's, or goes."""
    if not path.exists():
        temporary.rename(path)
    elif not exchange(temporary, path):
        old = _beside(path, _REPLACED)
        path.rename(old)  # onto an empty directory
        try:
            temporary.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def _beside(path: Path, suffix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent))


def _locked(directory: int) -> bool:
    """Lock a directory for as long as its descriptor is open; False where that cannot be."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process is at work in it, or the file system has no locks
        return False
    return True


def _recover(path: Path) -> None:
    """Remove what killed processes left beside a path, or put back what they had moved aside."""
    made = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}(?:{_UNFINISHED}|{_REPLACED})")
    try:
        left = [one for one in path.parent.iterdir() if made.fullmatch(one.name)]
    except OSError:  # nothing is there, or nobody may look
        return
    for directory in sorted(left):
        try:
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # what has such a name and is no folder is not ours
            continue
        if _locked(held):
            if directory.suffix == _REPLACED and not path.exists():
                directory.rename(path)
            else:
                shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def _number(error: OSError | SafetensorError) -> int:
    """The errno; safetensors' own writer gives it in its text alone."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0
