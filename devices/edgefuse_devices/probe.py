"""The machine at hand, as Linux describes it: a profile called `host`.

Everything is read below a root directory, so that a test can bring a tree of its own. Containers
hide parts of /sys, virtual machines have no clock to show, and under QEMU's user mode /proc is the
outer machine's: whatever is missing is left out, never guessed. Memory bandwidth is not measured.
"""

import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from edgefuse_devices.cores import RELEVANT_FEATURES, arm_core_name
from edgefuse_devices.errors import DeviceError
from edgefuse_devices.profile import Architecture, Cluster, DeviceProfile

HOST = "host"

_ARCHITECTURES: dict[str, Architecture] = {
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "x86_64": "x86_64",
    "AMD64": "x86_64",
}
_CPUS = "sys/devices/system/cpu"
_LARGE_CORE = 0.75
"""Least capacity of a core that is used, as a share of the largest core's: work is split evenly, so
the others would wait for a smaller core."""

_Processors = dict[int, dict[str, str]]


def probe() -> DeviceProfile:
    """Read the profile of the machine that this process runs on.

    Raises:
        DeviceError: The architecture is neither aarch64 nor x86_64, or this Python is a 32-bit
            program, as it is where a 64-bit kernel runs a 32-bit system.
    """
    if sys.maxsize < 1 << 32:
        raise DeviceError(
            f"This Python is a 32-bit program, and the kernel below it is {platform.machine()}: "
            "the packages that EdgeFuse needs are 64-bit",
            "On a Raspberry Pi install the 64-bit system, elsewhere a 64-bit Python",
        )
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = affinity(0) if affinity else set(range(os.cpu_count() or 1))
    return read_machine(Path("/"), platform.machine(), allowed)


def matches(profile: DeviceProfile, host: DeviceProfile) -> bool:
    """Tell whether the machine at hand is a profile's board, with all of its cores switched on.

    Args:
        profile: Profile of a board. If its `reported_as` is empty, the kinds and counts of its
            cores decide.
        host: Profile that `probe` returned.
    """
    if not profile.reported_as:
        return profile.architecture == host.architecture and _kinds(profile) == _kinds(host)
    named = any(
        name == pattern or fnmatchcase(name, pattern)
        for name in host.reported_as
        for pattern in profile.reported_as
    )
    return named and profile.cores == host.cores


def read_machine(root: Path, machine: str, allowed: set[int]) -> DeviceProfile:
    """Read the profile of the machine whose /proc and /sys are below a directory.

    Args:
        root: Usually `/`.
        machine: Name of the instruction set, as `uname -m` prints it.
        allowed: The CPU numbers that this process may run on.

    Raises:
        DeviceError: `machine` is neither aarch64 nor x86_64.
    """
    if machine not in _ARCHITECTURES:
        raise DeviceError(
            f"This machine is of architecture {machine}, and EdgeFuse runs on aarch64 and x86_64",
            "On a Raspberry Pi install the 64-bit system",
        )
    architecture = _ARCHITECTURES[machine]
    processors = _processors(root)
    if not allowed <= processors.keys():  # absent, or renumbered by a container
        block = next(iter(processors.values()), {})
        processors = dict.fromkeys(sorted(allowed), block)
    model = _text(root / "proc/device-tree/model")
    processor = _processor_name(processors, architecture)
    clusters = _clusters(root, processors, architecture)
    threads, pinning = _threads(root, processors, allowed)
    features = _features(processors, architecture)
    soc = _text(root / "proc/device-tree/compatible").split("\0")[-1].rpartition(",")[2]
    product = _text(root / "sys/class/dmi/id/product_name")
    sources = {
        "soc": "/proc/device-tree/compatible" if soc else "/proc/cpuinfo",
        "clusters": f"/proc/cpuinfo and /{_CPUS}",
        "memory_mib": "/proc/meminfo and the memory limit of the control group",
        "threads": "Large physical cores that this process may use",
    }
    if features:
        sources["features"] = "/proc/cpuinfo: what every core has"
    if pinning:
        sources["pinning"] = "One CPU of each of those cores"
    return DeviceProfile(
        name=HOST,
        title=model or product or processor or "This machine",
        soc=soc or processor or clusters[0].core,
        architecture=architecture,
        clusters=clusters,
        features=features,
        memory_mib=_memory_mib(root),
        threads=threads,
        pinning=pinning,
        reported_as=[name for name in (model, processor) if name],
        sources=sources,
    )


def _kinds(profile: DeviceProfile) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for cluster in profile.clusters:
        kinds[cluster.core] += cluster.count
    return kinds


def _processors(root: Path) -> _Processors:
    """The paragraphs of /proc/cpuinfo by CPU number."""
    found = {}
    for paragraph in _text(root / "proc/cpuinfo").split("\n\n"):
        lines = (line.partition(":") for line in paragraph.splitlines())
        block = {key.strip(): value.strip() for key, _, value in lines}
        if block.get("processor", "").isdigit():
            found[int(block["processor"])] = block
    return found


def _processor_name(processors: _Processors, architecture: Architecture) -> str:
    """The `model name` line, which is absent or meaningless on ARM ("ARMv8 Processor rev 0")."""
    if architecture == "aarch64":
        return ""
    return next(iter(processors.values())).get("model name", "")


def _features(processors: _Processors, architecture: Architecture) -> list[str]:
    line = "Features" if architecture == "aarch64" else "flags"
    of_every_core = set.intersection(
        *(set(block.get(line, "").split()) for block in processors.values())
    )
    return sorted(of_every_core & RELEVANT_FEATURES[architecture])


def _clusters(root: Path, processors: _Processors, architecture: Architecture) -> list[Cluster]:
    def kind(cpu: int) -> tuple[int, str]:
        run = cpu - cpus.index(cpu)  # constant as long as CPU numbers follow each other
        return run, _core_name(root, cpu, processors[cpu], architecture)

    cpus = sorted(processors)
    clusters = []
    for (_, core), group in groupby(cpus, kind):
        members = list(group)
        cores = len({_siblings(root, cpu, processors[cpu]) for cpu in members})
        if len(members) % cores:  # a sibling is switched off
            cores = len(members)
        clocks = [_number(root / _CPUS / f"cpu{n}/cpufreq/cpuinfo_max_freq") for n in members]
        clusters.append(
            Cluster(
                core=core,
                count=cores,
                first_cpu=members[0],
                max_clock_mhz=max(clocks) // 1000 or None,
                threads_per_core=len(members) // cores,
            )
        )
    return clusters


def _core_name(root: Path, cpu: int, block: dict[str, str], architecture: Architecture) -> str:
    if architecture == "aarch64":
        return arm_core_name(block.get("CPU implementer", ""), block.get("CPU part", ""))
    name = block.get("model name") or "unknown"
    for folder, kind in (("cpu_core", "P-core"), ("cpu_atom", "E-core")):
        if cpu in _cpu_list(_text(root / "sys/devices" / folder / "cpus")):
            return f"{name} {kind}"
    return name


def _siblings(root: Path, cpu: int, block: dict[str, str]) -> str:
    """A text that the CPUs of one physical core share, and no others."""
    listed = _text(root / _CPUS / f"cpu{cpu}/topology/thread_siblings_list")
    if listed:
        return listed
    if "core id" in block:
        return f"{block.get('physical id')}/{block['core id']}"
    return str(cpu)


def _threads(root: Path, processors: _Processors, allowed: set[int]) -> tuple[int, list[int]]:
    """The count of threads to use, and the CPUs to pin them to if small cores are left out."""
    first_of_core = {_siblings(root, c, processors[c]): c for c in sorted(allowed, reverse=True)}
    cpus = sorted(first_of_core.values())
    capacity = {cpu: _number(root / _CPUS / f"cpu{cpu}/cpu_capacity") for cpu in cpus}
    large = [cpu for cpu in cpus if capacity[cpu] >= _LARGE_CORE * max(capacity.values())]
    threads = max(1, int(min(len(large), _cpu_quota(root))))
    return threads, large if threads == len(large) < len(cpus) else []


def _cpu_quota(root: Path) -> float:
    """CPUs that the control group grants (cpu.max of cgroup v2), infinite without a limit."""
    quotas = [math.inf]
    for text in _cgroup(root, "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas)


def _memory_mib(root: Path) -> int:
    limits = [int(text) for text in _cgroup(root, "memory.max") if text.isdigit()]
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return min([int(line.split()[1]) << 10, *limits]) >> 20
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *limits]) >> 20


def _cgroup(root: Path, name: str) -> Iterator[str]:
    """The text of a cgroup v2 file in the process's own group and in each group above it."""
    top = root / "sys/fs/cgroup"
    lines = _text(root / "proc/self/cgroup").splitlines()
    own = next((line[len("0::/") :] for line in lines if line.startswith("0::/")), "")
    for group in (top / own, *(top / own).parents):
        if group.is_relative_to(top):
            yield _text(group / name)


def _cpu_list(text: str) -> set[int]:
    """`0-2,5` → {0, 1, 2, 5}."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _text(path: Path) -> str:
    """A file's text without the NUL bytes and blanks around it, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


__all__ = ["HOST", "matches", "probe", "read_machine"]
