"""Ends of a command that somebody else decides: Ctrl-C, TERM, a terminal that hangs up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stops_in_order() -> Iterator[None]:
    """TERM and HUP inside the block raise ``KeyboardInterrupt``, as Ctrl-C does.

    What `nohup` ignores stays ignored. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, lambda *_: _interrupt())
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _interrupt() -> None:
    # A shell without job control starts `spear ... &` with Ctrl-C ignored.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    # As a signal, so that `files.uninterrupted` holds it back while a record is written.
    signal.raise_signal(signal.SIGINT)
