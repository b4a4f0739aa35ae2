"""Ctrl-C and SIGTERM as a question that a loop asks, instead of an exception anywhere."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM while the block runs; a second one acts as ever.

    Yields:
        A function that says whether one has come.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    come = False

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature
        nonlocal come
        come = True
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: come
    finally:
        restore()
