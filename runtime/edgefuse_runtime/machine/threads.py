"""How many threads to compute with."""

import os

from edgefuse_devices.errors import InputError
from edgefuse_devices.probe import matches, probe
from edgefuse_devices.profile import DeviceProfile


def threads_for(board: DeviceProfile, asked: int | None = None) -> int:
    """The threads that are asked for, or those that suit this machine.

    Without a wish they are the board's recommendation where this machine is the board, and the
    machine's own cores where it is not.

    Args:
        board: The board that the bundle was exported for.
        asked: Count of threads.

    Raises:
        InputError: There are fewer processors: every thread more takes memory and slows all.
    """
    if asked:
        processors = os.cpu_count() or asked
        if asked > processors:
            raise InputError(
                f"{asked} threads are more than the {processors} processors of this machine",
                "Give fewer, or leave the choice to the board's profile",
            )
        return asked
    host = probe()
    return board.threads if matches(board, host) else host.threads
