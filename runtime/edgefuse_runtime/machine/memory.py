"""Memory of this process and of the machine, in bytes."""

import ctypes
import re
import resource
import warnings
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def resident() -> int:
    """Memory that is resident now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident() -> int:
    """The most that was ever resident since the program started.

    `VmHWM`, because `ru_maxrss` of a child process starts at what its parent held.
    """
    found = _in_status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if found is None else found


def anonymous() -> int:
    """What is resident now and is no part of a file: Linux cannot drop it. All where not Linux."""
    found = _in_status("RssAnon")
    return resident() if found is None else found


def give_back() -> None:
    """Give what this process has freed back to the system, where the C library keeps it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free() -> int:
    """What this process can still take: of the machine, and of the group that it is confined to.

    Linux's estimate `MemAvailable`, and the limits of cgroups, version 1 and 2.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def obtainable() -> int:
    """The same with the machine's free swap: what asks for more ends the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # psutil's, where a container hides how much was swapped
        return free() + int(psutil.swap_memory().free)


def _in_status(name: str) -> int | None:
    status = _STATUS.read_text() if _STATUS.exists() else ""
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


def _left_in_groups() -> list[int]:
    """What limits of this process's groups, and of those around them, leave.

    A file's pages count as used in a group, and are given back when they are wanted.
    """
    left = []
    for line in _CGROUP.read_text().splitlines() if _CGROUP.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            left += _left_in(place, *names)
            if place == root:
                break
    return left


def _left_in(group: Path, limit: str, usage: str, cached: str) -> list[int]:
    try:
        most, used = ((group / name).read_text().strip() for name in (limit, usage))
        files = re.search(rf"^{cached} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [int(most) - int(used) + int(files[1] if files else 0)] if most.isdigit() else []
