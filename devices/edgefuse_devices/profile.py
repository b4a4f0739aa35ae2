"""What a board is, as far as training on it goes: plain values, each with its source.

A profile is read from TOML, travels inside a bundle's manifest as JSON, and is what `probe`
finds out about the machine at hand.
"""

import re
from itertools import chain
from typing import Annotated, Literal

from msgspec import Meta, Struct

Architecture = Literal["aarch64", "x86_64"]

Text = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(gt=0)]
Megahertz = Annotated[int, Meta(gt=0, le=10_000)]
Mebibytes = Annotated[int, Meta(gt=0, le=1 << 24)]
Index = Annotated[int, Meta(ge=0)]

FIGURES = (
    "soc",
    "clusters",
    "features",
    "memory_mib",
    "memory_variants_mib",
    "memory_bandwidth_gb_s",
    "threads",
    "pinning",
)
"""Fields that need a source if they have a value."""


_LEAST_OF_NAME = 4
"""Letters and digits that a pattern of `reported_as` needs: `N100` has as many."""


class Cluster(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cores of one kind whose CPUs Linux numbers in a row.

    Attributes:
        core: Name of the core, for example `Cortex-A76`.
        count: Count of physical cores.
        first_cpu: Lowest CPU number of the cores in Linux.
        max_clock_mhz: Highest clock in MHz; None if the machine does not report it.
        threads_per_core: Count of CPUs that Linux sees in a core: 2 with simultaneous
            multithreading.
    """

    core: Text
    count: Annotated[int, Meta(gt=0, le=1024)]
    first_cpu: Index
    max_clock_mhz: Megahertz | None = None
    threads_per_core: Annotated[int, Meta(gt=0, le=8)] = 1

    @property
    def cpus(self) -> range:
        """CPU numbers of the cores in Linux."""
        return range(self.first_cpu, self.first_cpu + self.count * self.threads_per_core)


class DeviceProfile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board, or the machine at hand.

    Attributes:
        name: What `--device` calls it; `host` for the machine at hand.
        title: What people call it.
        soc: The system on chip, or the processor.
        architecture: Name of the instruction set, as `uname -m` prints it.
        clusters: The board's cores, in the order of their CPU numbers.
        features: Instruction-set features, as the flags in Linux's /proc/cpuinfo name them.
        memory_mib: Memory of the variant that is planned for, in MiB.
        memory_variants_mib: Every variant that is sold, in MiB.
        memory_bandwidth_gb_s: Theoretical peak, 10⁹ bytes a second; None where it is not known.
        threads: Threads that training should use.
        pinning: CPUs that suit those threads, one each. They are recorded only: training pins no
            thread so far.
        reported_as: Shell patterns for the board's name in Linux: the text of
            /proc/device-tree/model, or the processor's `model name` in /proc/cpuinfo.
        sources: Source of each of `FIGURES`.

    Raises:
        ValueError: The figures contradict each other, or one has no source. Decoding turns it into
            a `msgspec.ValidationError`.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: Text
    soc: Text
    architecture: Architecture
    clusters: Annotated[list[Cluster], Meta(min_length=1)]
    features: list[Text]
    memory_mib: Mebibytes
    memory_variants_mib: list[Mebibytes] = []
    memory_bandwidth_gb_s: Annotated[float, Meta(gt=0, le=10_000)] | None = None
    threads: Positive
    pinning: list[Index] = []
    reported_as: list[Text] = []
    sources: dict[str, Text]

    @property
    def cores(self) -> int:
        """Count of physical cores."""
        return sum(cluster.count for cluster in self.clusters)

    @property
    def cpus(self) -> list[int]:
        """The CPU numbers of all cores."""
        return list(chain.from_iterable(cluster.cpus for cluster in self.clusters))

    def __post_init__(self) -> None:
        """Check what depends on several fields."""
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> list[str]:
        problems = []
        cpus = self.cpus
        if len(set(cpus)) < len(cpus):
            problems.append("`clusters` overlap: two of them hold the same CPU number")
        if self.memory_variants_mib and self.memory_mib not in self.memory_variants_mib:
            problems.append(
                f"`memory_mib` is {self.memory_mib}, which is none of `memory_variants_mib`"
            )
        if self.threads > len(cpus):
            problems.append(f"`threads` is {self.threads}, and the clusters have {len(cpus)} CPUs")
        if strangers := sorted(set(self.pinning) - set(cpus)):
            problems.append(f"`pinning` names CPU {strangers[0]}, which no cluster has")
        if len(set(self.pinning)) < len(self.pinning):
            problems.append("`pinning` names a CPU twice")
        if self.pinning and len(self.pinning) != self.threads:
            problems.append(
                f"`pinning` names {len(self.pinning)} CPUs for {self.threads} `threads`"
            )
        problems += [
            f"`reported_as` has `{pattern}`, which fits names of other machines too"
            for pattern in self.reported_as
            if len(re.sub(r"\[.*?\]|\W", "", pattern)) < _LEAST_OF_NAME
        ]
        problems += [
            f"`sources` says nothing about `{figure}`"
            for figure in FIGURES
            if getattr(self, figure) and figure not in self.sources
        ]
        problems += [
            f"`sources` names `{figure}`, which is no figure of a profile"
            for figure in self.sources
            if figure not in FIGURES
        ]
        return problems


__all__ = ["FIGURES", "Architecture", "Cluster", "DeviceProfile"]
