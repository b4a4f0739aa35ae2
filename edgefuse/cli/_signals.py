"""Ctrl-C and SIGTERM as a value that a loop polls, instead of an exception at any place."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM while the block runs; a second one acts as usual.

    Args:
        *signals: Which to note; none for both.

    Yields:
        A function that returns whether one has come.
    """
    before = {number: signal.getsignal(number) for number in signals or _SIGNALS}
    come = False

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature
        nonlocal come
        come = True
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: come
    finally:
        restore()
