"""Memory of this process, in bytes."""

import re
import resource
from pathlib import Path

import psutil


def resident() -> int:
    """Memory that is resident now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident() -> int:
    """The most that was ever resident since the program started.

    `VmHWM`, because `ru_maxrss` of a child process starts at what its parent held.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
