"""Worker processes that end with their parent, however it ends.

The parent holds one end of a pipe, the workers the other, and nothing is ever written to it. When
the parent lets go, or dies (killed, too), the workers read the end of the file: a task under way is
interrupted as by Ctrl-C, so that it leaves no row half written. The workers of a dead parent then
end, within the seconds of :data:`GRACE` whatever they do; those of a living one go on to their
pool, which ends them.

Ctrl-C and a hang-up of the terminal reach all processes; what becomes of the work is the parent's
to say, so workers pass over them. A worker that is told to terminate ends in the same orderly way.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection, wait

GRACE = 3.0
"""Seconds that a task has to end once it is interrupted and its parent is dead."""

LOOK = 0.5
"""Seconds between looks at the parent: a process that it forked may hold the pipe too."""

ENDED = 1
"""Exit status of a worker that its pool did not end."""

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@dataclass
class _State:
    """Of this worker process.

    Attributes:
        working: a task is under way.
        stopped: no task is to be run any more.
        ending: nor is the process to live on.
    """

    working: bool = False
    stopped: bool = False
    ending: bool = False


_state = _State()


@contextmanager
def leash() -> Iterator[Connection]:
    """Lets workers work inside the block, and no longer.

    Yields:
        What to pass to each worker, for :func:`end_with`.
    """
    theirs, ours = Pipe(duplex=False)
    with theirs, ours:
        yield theirs


@contextmanager
def signals_wait() -> Iterator[None]:
    """Processes started inside the block get no signal before they ask for them (`end_with`).

    They would die of a Ctrl-C while they import, each with a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(parent: Connection) -> None:
    """Makes this process, a worker, end with its parent; called once, in the main thread."""
    signal.signal(signal.SIGINT, lambda *_: _interrupted())
    signal.signal(signal.SIGTERM, lambda *_: _end())
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent, os.getppid()), daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def working() -> Iterator[None]:
    """A task runs inside the block.

    Raises:
        KeyboardInterrupt: when the parent has let go, or does so meanwhile.
    """
    if _state.stopped:
        raise KeyboardInterrupt
    _state.working = True
    try:
        yield
    except KeyboardInterrupt:
        if _state.ending:
            os._exit(ENDED)
        raise
    finally:
        _state.working = False


def _watch(parent: Connection, number: int) -> None:
    """Waits for the parent to let go, then for its death: files close before a process is gone."""
    while not wait([parent], LOOK) and not _orphaned(number):
        pass
    _state.stopped = True
    _interrupt()
    while not _orphaned(number):
        time.sleep(LOOK)
    _end()


def _orphaned(number: int) -> bool:
    parent = parent_process()
    return os.getppid() != number or parent is None or not parent.is_alive()


def _end() -> None:
    _state.stopped = _state.ending = True
    timer = threading.Timer(GRACE, os._exit, (ENDED,))
    timer.daemon = True
    timer.start()
    _interrupt()


def _interrupt() -> None:
    """Wakes the main thread wherever it waits; `files.uninterrupted` holds it back."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _interrupted() -> None:
    if _state.stopped and _state.working:
        raise KeyboardInterrupt
    if _state.ending and not _state.working:
        os._exit(ENDED)
