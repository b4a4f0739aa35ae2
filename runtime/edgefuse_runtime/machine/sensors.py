"""How hot the machine is, what holds its processor back, and what its battery has left."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_ZONES = Path("/sys/class/thermal")
_SUPPLIES = Path("/sys/class/power_supply")
_PLATFORM = Path("/sys/devices/platform")
_CPUS = Path("/sys/devices/system/cpu")

_OF_RASPBERRY_PI = {
    1 << 0: "the voltage is too low",
    1 << 1: "the clock is capped",
    1 << 2: "the processor is throttled",
    1 << 3: "the soft temperature limit holds",
}
"""Flags of the Raspberry Pi's firmware that hold now
(https://www.raspberrypi.com/documentation/computers/os.html#get_throttled)."""


def temperature() -> float | None:
    """The hottest of what the machine's sensors report, in °C; None where there are none."""
    sensors = getattr(psutil, "sensors_temperatures", dict)  # not on every system
    found = [one.current for group in sensors().values() for one in group if one.current]
    # psutil looks at these only where there is nothing else, as there is with a network card.
    for file in _ZONES.glob("thermal_zone*/temp"):
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()) / 1000)
    return max(found, default=None)


def battery() -> float | None:
    """What is left in a battery of this machine that is being emptied, in percent.

    None where there is none; a mouse's is none of this machine's. (psutil counts those, and takes
    what is unknown for unplugged.)
    """
    found = []
    for supply in _SUPPLIES.glob("*"):
        with suppress(OSError, ValueError):
            reported = {
                name: (supply / name).read_text().strip() if (supply / name).exists() else ""
                for name in ("type", "scope", "status", "capacity")
            }
            is_ours = reported["type"] == "Battery" and reported["scope"] != "Device"
            if is_ours and reported["status"] == "Discharging":
                found.append(float(reported["capacity"]))
    return min(found, default=None)


class Throttling:
    """What holds the processor back, as far as the machine says so."""

    def __init__(self) -> None:
        """Remember how often Intel's processors have been throttled before."""
        self._before = _times_throttled()

    def now(self) -> set[str]:
        """A sentence for each thing that holds it back now, or has since the beginning."""
        found = set(_flags_of_firmware())
        if _times_throttled() > self._before:
            found.add("the processor was throttled by heat")
        return found


def _flags_of_firmware() -> Iterator[str]:
    for file in _PLATFORM.glob("soc*/soc*:firmware/get_throttled"):
        with suppress(OSError, ValueError):
            flags = int(file.read_text(), 16)
            yield from (sentence for flag, sentence in _OF_RASPBERRY_PI.items() if flags & flag)


def _times_throttled() -> int:
    times = 0
    for file in _CPUS.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"):
        with suppress(OSError, ValueError):
            times += int(file.read_text())
    return times
