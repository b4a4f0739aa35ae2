"""Whether this processor is real, or another one plays it (QEMU's user mode, Rosetta)."""

import os
import platform
from pathlib import Path

_KERNEL = Path("/proc/sys/kernel/arch")


def emulated() -> bool:
    """Whether this process's instructions are translated for a processor of another kind.

    The kernel below names its own architecture since Linux 6.1. Older ones do not, and then
    QEMU_CPU, by which QEMU's user mode is told what to play, decides.
    """
    if _KERNEL.exists():
        return _KERNEL.read_text().strip() != platform.machine()
    return "QEMU_CPU" in os.environ
