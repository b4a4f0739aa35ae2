"""How many threads to train with."""

from edgefuse_devices.probe import matches, probe
from edgefuse_devices.profile import DeviceProfile


def default_threads(board: DeviceProfile) -> int:
    """The board's recommendation where this machine is the board, else the machine's own cores.

    Args:
        board: The board that the bundle was exported for.
    """
    host = probe()
    return board.threads if matches(board, host) else host.threads
