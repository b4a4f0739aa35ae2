"""Care for the machine between steps: rest when it is hot, and an end before its battery's."""

import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from edgefuse_devices.errors import RunError
from edgefuse_runtime.machine import sensors

_BAND = 5.0  # °C below the limit in which training slows down, and down to which it pauses
_LOW_BATTERY = 10.0  # percent
_INTERVAL = 1.0  # seconds between two looks at the sensors


class Strain(Struct, frozen=True, kw_only=True):
    """What training was to the machine.

    Attributes:
        highest_temperature: The highest that its sensors reported between steps, in °C; 0 where
            there are none.
        rested: Seconds without a step, because it was hot.
        throttled: What held its processor back, a sentence each.
    """

    highest_temperature: float = 0.0
    rested: float = 0.0
    throttled: list[str] = []


def check_sensors() -> None:
    """Check that there is a temperature to hold down.

    Raises:
        RunError: The machine reports none.
    """
    if sensors.temperature() is None:
        raise RunError(
            "this machine reports no temperature, which --max-temperature would hold down",
            "Leave it out",
        )


class Care:
    """Watches the machine's sensors.

    Attributes:
        strain: What training was to the machine up to now.
    """

    def __init__(
        self,
        strain: Strain,
        *,
        max_temperature: float | None,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Begin to watch.

        Args:
            strain: What training was to the machine before.
            max_temperature: Temperature in °C that it shall not have; None for any.
            say: Receiver of sentences.
            stop: Whether a rest is to end.
        """
        self.strain = strain
        self._limit = max_temperature
        self._say, self._stop = say, stop
        self._throttling = sensors.Throttling()
        self._looked = -_INTERVAL
        self._temperature: float | None = None

    def after_step(self, seconds: float) -> str:
        """Look at the sensors, if it is time, and let a hot machine rest.

        Within 5 °C of the limit training slows down, the more the nearer it is; at the limit it
        pauses until the machine is 5 °C below.

        Args:
            seconds: What the step took.

        Returns:
            Why training has to end; nothing where it may go on.
        """
        if time.monotonic() - self._looked >= _INTERVAL:
            self._look()
            if low := _low_battery():
                return low
        if self._limit is None or self._temperature is None:
            return ""
        if self._temperature >= self._limit:
            return self._pause(self._limit - _BAND)
        over = self._temperature - (self._limit - _BAND)
        self._rest(seconds * max(0.0, over) / _BAND)
        return ""

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._temperature = sensors.temperature()
        held_back = self._throttling.now() - {*self.strain.throttled}
        for sentence in sorted(held_back):
            self._say(f"{sentence}: steps take longer than they could")
        self.strain = msgspec.structs.replace(
            self.strain,
            highest_temperature=max(self.strain.highest_temperature, self._temperature or 0.0),
            throttled=[*self.strain.throttled, *sorted(held_back)],
        )

    def _pause(self, goal: float) -> str:
        """Wait until it is cooler; why training has to end meanwhile, if it has to."""
        self._say(f"the machine is at {self._temperature:.0f} °C: a pause until {goal:.0f} °C")
        while self._temperature is not None and self._temperature > goal and not self._stop():
            self._rest(_INTERVAL)
            self._look()
            if low := _low_battery():
                return low
        return ""

    def _rest(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)
            self.strain = msgspec.structs.replace(self.strain, rested=self.strain.rested + seconds)


def _low_battery() -> str:
    """What to say of a battery that is nearly empty; nothing of any other."""
    left = sensors.battery()
    return f"the battery has {left:.0f} % left" if left is not None and left < _LOW_BATTERY else ""
