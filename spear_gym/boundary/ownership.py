"""One owner: at most one process at a time writes to a run folder, or to a study of a ledger.

The owner's name stands in a *slot*: a small file (:class:`FileSlot`), or a row of a database. A
slot changes by compare-and-swap, so that of two processes that come at once one is refused. An
owner that was killed cannot clear its slot; the next process sees that it is gone and takes over:

- on the same machine, when no process has its number, or one that started at another time;
- on another machine, when it has not been heard of for :data:`SILENT_SECONDS`; owners give a sign
  of life every :data:`BEAT_SECONDS`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

try:
    import fcntl
except ImportError:  # Windows: two claims in the same instant are told apart at the next check
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 20.0
"""Time between two signs of life."""

SILENT_SECONDS = 120.0
"""An owner that cannot be asked for is gone after this time without a sign of life."""

FORMAT = "spear-gym owner 1"
LARGEST = 4096

logger = logging.getLogger("spear_gym")


class OwnedError(ValueError):
    """Another process writes there."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes:
        host: its machine's name, for people.
        machine: what tells machines apart: name, boot and name space of process numbers.
        pid: process number on that machine.
        started: when the process started, in the machine's own form; empty when unknown.
        since: when it became the owner, UTC.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str

    @classmethod
    def current(cls) -> Owner:
        """This process, as owner from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(platform.node(), _machine(), os.getpid(), _started(os.getpid()), now)

    @property
    def is_this_process(self) -> bool:
        """Whether it is the one that asks."""
        return (self.machine, self.pid, self.started) == (
            _machine(),
            os.getpid(),
            _started(os.getpid()),
        )

    def gone(self, silent: float) -> bool:
        """Whether it has ended.

        Args:
            silent: seconds since its last sign of life.
        """
        if self.machine == _machine() and os.name == "posix":
            if not _exists(self.pid):
                return True
            started = _started(self.pid)
            if started and self.started:
                return started != self.started
        return silent > SILENT_SECONDS

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def loads(cls, text: str) -> Owner | None:
        """Reads :meth:`dumps`'s form; ``None`` for anything else."""
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                return None
            owner = cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        texts = (owner.host, owner.machine, owner.started, owner.since)
        whole = type(owner.pid) is int and 0 < owner.pid < 2**31
        return owner if whole and all(isinstance(text, str) for text in texts) else None

    def __str__(self) -> str:
        host, since = (
            "".join(c for c in text if c.isprintable()) for text in (self.host, self.since)
        )
        return f"process {self.pid} on '{host}', since {since}"


class Entry(NamedTuple):
    """What a slot holds.

    Attributes:
        text: the owner's line, ``None`` for nothing.
        silent: seconds since its last sign of life.
    """

    text: str | None
    silent: float


class Slot(Protocol):
    """A place for one owner's name."""

    def read(self) -> Entry:
        """What stands there."""
        ...

    def swap(self, old: str | None, new: str | None) -> bool:
        """Replaces ``old`` by ``new`` (``None``: nothing) and says whether ``old`` stood there."""
        ...

    def beat(self, text: str) -> None:
        """Gives a sign of life of the owner ``text``."""
        ...

    def way_out(self) -> str:
        """What a user can do who knows that the owner is gone."""
        ...


class Lease:
    """Ownership of something, from when it is made until :meth:`release`.

    A process may hold several of one thing; it is given up with the last of them.

    Args:
        slot: where the owner's name stands.
        key: what tells slots apart within this process.
        what: the thing in words, for messages: ``"the run in 'runs/x'"``.

    Raises:
        OwnedError: when another process owns it, and who.
    """

    def __init__(self, slot: Slot, key: str, what: str) -> None:
        self._slot, self._key, self._what = slot, key, what
        self._text = ""
        self._process = os.getpid()
        self._released = threading.Event()
        self._claim()
        with _guard:
            _held[key] = _held.get(key, 0) + 1
        threading.Thread(target=self._beat, daemon=True, name=f"owner of {key}").start()

    def check(self) -> None:
        """Makes sure, before something is written, that this process is still the owner.

        Raises:
            OwnedError: when another has taken over, as it may after this process stood still for
                long.
        """
        entry = self._slot.read()
        if entry.text == self._text:
            return
        owner = Owner.loads(entry.text or "")
        if owner is not None and not owner.is_this_process:
            raise OwnedError(f"{self._what} was taken over by {owner}")
        self._claim()

    def release(self) -> None:
        """Gives it up; a second call does nothing."""
        if self._released.is_set() or os.getpid() != self._process:
            return
        self._released.set()
        with _guard:
            _held[self._key] -= 1
            if _held[self._key] > 0:
                return
            del _held[self._key]
        with suppress(Exception):  # what is left behind is seen to be gone by the next
            self._slot.swap(self._text, None)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _claim(self) -> None:
        owner = None
        for _ in range(20):
            entry = self._slot.read()
            owner = Owner.loads(entry.text or "")
            if owner is not None and owner.is_this_process and entry.text is not None:
                self._text = entry.text
                return
            if owner is not None and not owner.gone(entry.silent):
                break
            mine = Owner.current().dumps()
            if self._slot.swap(entry.text, mine):
                if owner is not None:
                    logger.warning("took over %s from %s, which is gone", self._what, owner)
                self._text = mine
                return
        who = "another process" if owner is None else str(owner)
        raise OwnedError(
            f"{self._what} belongs to {who}; wait for it, or choose another place "
            f"({self._slot.way_out()})"
        )

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(Exception):  # whether it still owns is asked before each write
                self._slot.beat(self._text)


class FileSlot:
    """A slot that is a small file; there is no file while there is no owner.

    Args:
        path: the file. It is made and removed, and its folder must exist.

    Raises:
        OwnedError: when it is something else, which is left alone.
        OSError: when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Entry:
        """What stands there."""
        try:
            with self._open(make=False) as handle:
                return self._entry(handle)
        except FileNotFoundError:
            return Entry(None, 0.0)

    def swap(self, old: str | None, new: str | None) -> bool:
        """Replaces ``old`` by ``new``, in one step for every process on this file system."""
        with self._open() as handle:
            if self._entry(handle).text != old:
                return False
            os.ftruncate(handle, 0)
            if new is None:
                with suppress(PermissionError):  # Windows; an empty file names nobody either
                    self._path.unlink()
            else:
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, new.encode())
        return True

    def beat(self, text: str) -> None:
        """The file's time is the last sign of life."""
        if self.read().text == text:
            os.utime(self._path)

    def way_out(self) -> str:
        """Where the name stands."""
        return f"if that process is gone, delete '{self._path}'"

    @contextmanager
    def _open(self, *, make: bool = True) -> Iterator[int]:
        """The file, made when missing, for this process alone until the block ends.

        The lock is the kernel's and lasts microseconds: it falls when its holder is killed.
        """
        self._check_kind()
        while True:
            flags = os.O_RDWR | (os.O_CREAT if make else 0)
            for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
                flags |= getattr(os, name, 0)
            handle = os.open(self._path, flags, 0o666)
            try:
                if fcntl is not None:
                    with suppress(OSError):  # a file system without locks
                        fcntl.flock(handle, fcntl.LOCK_EX)
                # An owner may have removed the file since it was opened: then once more.
                if self._is(handle):
                    yield handle
                    return
            finally:
                os.close(handle)

    def _entry(self, handle: int) -> Entry:
        os.lseek(handle, 0, os.SEEK_SET)
        content = os.read(handle, LARGEST + 1)
        start = f'{{"format": "{FORMAT}"'.encode()
        # A killed process may have left the first part of its line.
        if len(content) > LARGEST or content[: len(start)] != start[: len(content)]:
            raise OwnedError(f"'{self._path}' is no owner's file of spear-gym; it is left alone")
        silent = time.time() - os.fstat(handle).st_mtime
        return Entry(content.decode(errors="replace") or None, silent)

    def _is(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.lstat())
        except FileNotFoundError:
            return False

    def _check_kind(self) -> None:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(self._path.lstat().st_mode):
                raise OwnedError(f"'{self._path}' is no ordinary file; it is left alone")


def own(path: Path, what: str) -> Lease:
    """Makes this process the owner of something.

    Use it as a context manager, and call :meth:`Lease.check` before what must not be written by
    two::

        with own(folder / "owner.json", f"the run in '{folder}'") as lease:
            lease.check()

    Args:
        path: the owner's file; see :class:`FileSlot`.
        what: the thing in words, for messages.

    Raises:
        OwnedError: when another process owns it, and who.
        OSError: when the file cannot be made.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    return Lease(FileSlot(absolute), str(absolute), what)


_held: dict[str, int] = {}
_guard = threading.Lock()


def _exists(pid: int) -> bool:
    """Whether a process of this number runs here; a dead one that nobody has buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] not in (["Z"], ["X"])


def _started(pid: int) -> str:
    """When a process started, in any form that never changes; empty when it cannot be known."""
    fields = _stat(pid)
    if fields:
        return fields[19]  # clock ticks after boot: field 22 of proc(5), and 3 is the first here
    if os.name != "posix" or Path("/proc/self/stat").exists():
        return ""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    with suppress(OSError, subprocess.SubprocessError):
        found: Any = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return str(found.stdout).strip()
    return ""


def _stat(pid: int) -> list[str]:
    """Fields of Linux's record of a process, from its state on; none elsewhere."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # its name, in parentheses, may hold anything


@cache
def _machine() -> str:
    """What tells machines apart, and a machine from itself before it was restarted."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError, ValueError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - no path, but a name
    return " ".join(parts)
