"""Journals: ledgers that are files of one JSON row a line, as Optuna's journal storage reads them.

A file is touched only when it is recognised as one; see :mod:`spear_gym.record.journal_rows`. What
is damaged is said by its line.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from spear_gym.record.addresses import LedgerError
from spear_gym.record.journal_rows import (
    LARGEST_LINE,
    Follower,
    Row,
    RowError,
    check_kind,
    could_be_cut,
    damaged,
    is_row,
    parse,
    problem_of,
    recognise,
)

LOCK_SECONDS = 5.0
"""A journal's lock of this age was left behind; writing a row takes milliseconds."""


class Journal(BaseJournalBackend):
    """The file of a journal, for :class:`optuna.storages.JournalStorage`.

    Several processes may write to it. Its form and its lock are those of Optuna's own journal
    file, so that Optuna and its dashboard open it too.

    Args:
        path: absolute; made when missing.
        ours: see :func:`recognise`.
        read_only: it is not made.

    Raises:
        LedgerError: when it is no journal, which is left as it is.
    """

    def __init__(self, path: Path, *, ours: bool = False, read_only: bool = False) -> None:
        recognise(path, ours=ours)
        self.path = path
        self._lock = LinkLock(path)
        self.follower = Follower()
        self._rows = 0
        self._offset = 0
        if not path.exists() and not read_only:
            path.open("ab").close()
        self._identity = path.stat().st_ino

    @property
    def line(self) -> int:
        """The line that was read last."""
        return self._rows

    def read_logs(self, log_number_from: int) -> Iterator[Row]:
        """The rows from one on.

        Raises:
            LedgerError: at the first line that is damaged, or when the file is another one.
        """
        if log_number_from != self._rows:
            self._rows, self._offset, self.follower = 0, 0, Follower()
        self._check_same()
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in iter(lambda: file.readline(LARGEST_LINE), b""):
                if not line.endswith(b"\n") and len(line) < LARGEST_LINE:
                    return  # being written, or left unfinished: the next writer sees to it
                number = self._rows + 1
                try:
                    row = parse(line)
                    self.follower.check(row, line)
                except RowError as error:
                    raise damaged(self.path, number, str(error)) from None
                self.follower.follow(row, line, number)
                self._rows, self._offset = number, self._offset + len(line)
                if number > log_number_from:
                    yield row

    def append_logs(self, logs: list[Row]) -> None:
        """Writes rows, all or none of them.

        Raises:
            LedgerError: when the file is another one than before.
        """
        rows = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in logs)
        with get_lock_file(self._lock):
            self._check_same()
            _mend_end(self.path)
            before = self.path.stat().st_size
            with self.path.open("ab") as file:
                try:
                    file.write(rows.encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:  # a full disk: the part that was written would be in the way
                    with contextlib.suppress(OSError):
                        os.truncate(self.path, before)
                    raise

    def mend_end(self) -> None:
        """Cuts off a row that a killed process did not finish, once all others were read.

        Raises:
            LedgerError: when it is no part of a row.
        """
        if _ends_well(self.path):
            return
        # Another process may be writing the line just now.
        with get_lock_file(self._lock):
            _mend_end(self.path)

    def _check_same(self) -> None:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            raise LedgerError(f"the ledger '{self.path}' was removed while it was in use") from None
        check_kind(self.path, found)
        if found.st_ino != self._identity or found.st_size < self._offset:
            raise LedgerError(f"the ledger '{self.path}' was replaced while it was in use")


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _mend_end(path: Path) -> None:
    """Ends the last line: a whole row is kept, the first part of one is cut off.

    Raises:
        LedgerError: when it is something else, which is kept.
    """
    if _ends_well(path):
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LARGEST_LINE))
        last = file.read().rpartition(b"\n")[2]
    if is_row(last):
        with path.open("ab") as file:
            file.write(b"\n")
    elif could_be_cut(last):
        os.truncate(path, size - len(last))
    else:
        with path.open("rb") as file:
            number = sum(1 for _ in file)
        raise damaged(path, number, problem_of(last))


class LinkLock(BaseJournalFileLock):
    """The lock that Optuna puts beside a journal, a link to the file, while it writes a row.

    One that a killed process left is removed after :data:`LOCK_SECONDS`. Optuna itself waits for
    ever when the link leads nowhere, as one made with a relative path does.

    Args:
        path: of the journal, absolute.
    """

    def __init__(self, path: Path) -> None:
        self._target = path
        self._path = path.with_name(path.name + ".lock")
        self._mine: tuple[int, int] | None = None

    def acquire(self) -> bool:
        """Waits for the lock.

        Raises:
            LedgerError: when something else stands in its place.
        """
        seen, since, pause = None, time.monotonic(), 0.001
        while True:
            with contextlib.suppress(FileExistsError):
                self._path.symlink_to(self._target)
                self._mine = self._look()
                return True
            found = self._look()
            if found != seen:
                seen, since = found, time.monotonic()
            elif found is not None and time.monotonic() - since > LOCK_SECONDS:
                self._remove_dead(found)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def release(self) -> None:
        """Gives the lock up, unless another process took it for dead."""
        if self._mine is not None:
            self._remove(self._mine)
        self._mine = None

    def _look(self) -> tuple[int, int] | None:
        """What tells this lock from the next one; ``None`` when there is none."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_ctime_ns

    def _remove_dead(self, found: tuple[int, int]) -> None:
        if not self._path.is_symlink() or self._path.readlink().name != self._target.name:
            raise LedgerError(
                f"'{self._path}' is in the way and is no lock of this ledger; remove it if no "
                "other program writes there"
            )
        self._remove(found)

    def _remove(self, found: tuple[int, int]) -> None:
        """Removes a lock, by way of another name, so that no other process's is removed."""
        if self._look() == found:
            name = self._path.with_name(f"{self._path.name}{uuid.uuid4()}.rename")
            with contextlib.suppress(FileNotFoundError):
                self._path.rename(name)
                name.unlink()
