"""Ctrl-C, SIGTERM and a lost terminal: the first asks to end, and a second one ends at once."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 0.5
"""Seconds that the main thread has after a second signal to remove what it was writing."""


class _Unanswered:
    """Signals that have come since somebody answered one."""

    count = 0


@contextmanager
def heeding_signals() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise SystemExit, and a second signal ends at once.

    Python's own handlers wait for the main thread, which a graph may hold for minutes: a thread of
    its own reads what the system writes for every signal.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else nohup, say, has it ignored
            signal.signal(number, _leave)
    read, write = socket.socketpair()
    with read, write:
        write.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=_watch, args=(read,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            write.shutdown(socket.SHUT_WR)
            watcher.join()
            _Unanswered.count = 0


@contextmanager
def stop_on_signal(*signals: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C, SIGTERM or SIGHUP while the block runs; a second one acts as usual.

    Args:
        *signals: Which to note; none for all.

    Yields:
        A function that returns whether one has come.
    """
    before = {number: signal.getsignal(number) for number in signals or _SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    come = False

    def restore() -> None:
        for number in heeded:
            signal.signal(number, before[number])

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature
        nonlocal come
        come = True
        restore()

    for number in heeded:
        signal.signal(number, note)
    try:
        yield lambda: come
    finally:
        restore()
        if come:
            _Unanswered.count = 0


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature
    """Exit by an exception, so that half-written folders are removed."""
    sys.exit(128 + number)


def _watch(read: socket.socket) -> None:
    """End the process where the main thread does not, by itself, soon after a second signal."""
    while come := read.recv(1):
        (number,) = come
        if number not in _SIGNALS or signal.getsignal(number) is signal.SIG_IGN:
            continue
        _Unanswered.count += 1
        if _Unanswered.count > 1:
            read.settimeout(_GRACE)
            with suppress(TimeoutError):
                if not read.recv(1):
                    return
            os.write(2, b"edgefuse: ended at once.\n")
            os._exit(128 + number)
