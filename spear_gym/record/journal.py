"""Journals: ledgers that are files of one JSON row a line, as Optuna's journal storage reads them.

A file is touched only when it is recognised as one (:func:`recognise`). Every line is checked when
it is read, for Optuna would pass over some damage in silence: a row that names a study or a trial
which no earlier row made, or one that stands there twice. What is damaged is said by its line.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from spear_gym.record.addresses import LedgerError

Row = dict[str, Any]

LOCK_SECONDS = 5.0
"""A journal's lock of this age was left behind; writing a row takes milliseconds."""

LARGEST_FILE = 2**31
LARGEST_LINE = 2**24
DEEPEST = 100
"""Nesting of a row; deeper ones cannot be copied or compared by Python."""

HEAD = b'{"op_code":'
"""What every row begins with."""

CREATE_STUDY, DELETE_STUDY, CREATE_TRIAL = 0, 1, 4
NEEDED: tuple[frozenset[str], ...] = tuple(
    frozenset(("op_code", "worker_id", *keys.split()))
    for keys in (
        "study_name directions",
        "study_id",
        "study_id user_attr",
        "study_id system_attr",
        "study_id datetime_start",
        "trial_id param_name param_value_internal distribution",
        "trial_id state values",
        "trial_id step intermediate_value",
        "trial_id user_attr",
        "trial_id system_attr",
        "",
    )
)
"""The keys of a row, by its operation."""


class RowError(ValueError):
    """A line that is no whole row, and why."""


# ---------------------------------------------------------------- recognition


def recognise(path: Path, *, ours: bool = False, mending: bool = False) -> bool:
    """Whether a file is a journal (``True``) or still to be made (``False``); changes nothing.

    Args:
        path: the file.
        ours: it lies in a folder of ours. Then a few bytes of a row's start are taken for what a
            killed process left; elsewhere they could be anything.
        mending: it may be damaged at its start, too.

    Raises:
        LedgerError: when it is anything else, or damaged at its start.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    check_kind(path, found)
    if found.st_size == 0:
        return False
    if found.st_size > LARGEST_FILE:
        raise LedgerError(
            f"'{path}' has {found.st_size / 2**30:.1f} GiB; a journal has at most "
            f"{LARGEST_FILE / 2**30:g} GiB, keep the ledger in a database"
        )
    with path.open("rb") as file:
        first = file.readline(LARGEST_LINE)
        if first.startswith(b"SQLite format 3\0"):
            raise LedgerError(
                f"'{path}' is an SQLite database; give it as sqlite:///{path.absolute()}"
            )
        cut = could_be_cut(first) and (ours or first.startswith(HEAD))
        if _is_row(first) or (cut and not first.endswith(b"\n")):
            return True
        # Damaged at its start, or something else: it is ours when any line is one of our rows.
        if any(map(_is_row, iter(lambda: file.readline(LARGEST_LINE), b""))):
            if mending:
                return True
            raise damaged(path, 1, problem_of(first))
    raise LedgerError(
        f"'{path}' is no ledger (its first line is no row of a journal), so it is left alone; "
        "move it away or choose another name"
    )


def check_kind(path: Path, found: os.stat_result) -> None:
    """Refuses what is no ordinary file.

    Raises:
        LedgerError: for a link, a folder, a pipe or a device.
    """
    if stat.S_ISLNK(found.st_mode):
        raise LedgerError(
            f"'{path}' is a symbolic link, so it is left alone; give what it points to, "
            f"'{os.path.realpath(path)}'"
        )
    if not stat.S_ISREG(found.st_mode):
        raise LedgerError(f"'{path}' is no ordinary file; give the name of a file")


def could_be_cut(line: bytes) -> bool:
    """Whether a line without an end may be the first part of a row."""
    return line[: len(HEAD)] == HEAD[: len(line)] and b"\0" not in line


def damaged(path: Path, line: int, problem: str) -> LedgerError:
    """The error that names a line and the way out."""
    return LedgerError(
        f"line {line} of the ledger '{path}' is damaged: it {problem}; see what is whole with "
        f"'spear ledger check {path}', keep it with 'spear ledger repair {path}'"
    )


# ---------------------------------------------------------------- rows


def parse(line: bytes) -> Row:
    """A row.

    Args:
        line: with or without the end of the line.

    Raises:
        RowError: when it is none, with the reason as the end of a sentence about "it".
    """
    row = _loaded(line)
    operation = row.get("op_code")
    if type(operation) is not int or not 0 <= operation < len(NEEDED):
        raise RowError("names no operation")
    if not isinstance(row.get("worker_id"), str):
        raise RowError("names no process that wrote it")
    missing = NEEDED[operation] - row.keys()
    if missing:
        raise RowError(f"lacks {', '.join(sorted(missing))}")
    # What deletes must be nothing else: one flipped digit could turn a row into it.
    if operation == DELETE_STUDY and row.keys() != NEEDED[operation]:
        raise RowError("would delete a study, and says more than that")
    if operation == CREATE_STUDY and not _names_a_study(row):
        raise RowError("makes a study without a name or a direction")
    for name in ("study_id", "trial_id"):
        if name in row and (type(row[name]) is not int or row[name] < 0):
            raise RowError(f"has no number as {name}")
    return row


def _names_a_study(row: Row) -> bool:
    name, directions = row["study_name"], row["directions"]
    whole = isinstance(name, str) and isinstance(directions, list) and directions
    return bool(whole) and all(type(d) is int and 0 <= d <= 2 for d in directions)


def problem_of(line: bytes) -> str:
    """What is wrong with a line; empty for nothing."""
    try:
        parse(line)
    except RowError as error:
        return str(error)
    return ""


def _loaded(line: bytes) -> Row:
    problem = _problem(line)
    if problem:
        raise RowError(problem)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"is no row of JSON ({_short(error)})") from None
    if not isinstance(row, dict):
        raise RowError("is JSON, but no row")
    if line.count(b"[") + line.count(b"{") > DEEPEST and _is_deep(row):
        raise RowError("is no row of JSON (it is nested too deeply)")
    return row


def _problem(line: bytes) -> str:
    """What is wrong with a line before it is read as JSON; empty for nothing."""
    content = line.rstrip(b"\r\n")
    if not content.strip():
        return "is blank"
    if not content.strip(b"\0 "):
        return f"holds {len(content)} zero bytes"
    if b"\0" in content:
        return "holds zero bytes"
    if len(content) >= LARGEST_LINE:
        return f"is longer than {LARGEST_LINE // 2**20} MiB"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"is no UTF-8 ({error.reason} at byte {error.start + 1})"
    return ""


def _is_deep(row: Row) -> bool:
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [x for values in inner for x in values if isinstance(x, dict | list)]
        if not level:
            return False
    return True


def _short(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).partition(":")[0].partition(";")[0]


def _is_row(line: bytes) -> bool:
    # Rows are written without spaces; other programs' JSON is not even read.
    try:
        return line.startswith(HEAD) and bool(parse(line))
    except RowError:
        return False


class Follower:
    """Follows the numbers that Optuna gives to studies and trials, which no row states.

    Attributes:
        studies: how many studies were made so far.
        trials: the line of each trial.
    """

    def __init__(self) -> None:
        self.studies = 0
        self.trials: list[int] = []
        self._names: dict[int, str] = {}
        self._seen: dict[int, int] = {}

    def check(self, row: Row, line: bytes) -> None:
        """Refuses a row that does not go on from those before it.

        Raises:
            RowError: see :func:`parse`.
        """
        if row.get("study_id", -1) >= self.studies:
            raise RowError(f"belongs to study {row['study_id']}, which no line before it makes")
        if row.get("trial_id", -1) >= len(self.trials):
            raise RowError(f"belongs to trial {row['trial_id']}, which no line before it makes")
        # Trials that wait (and have no time) may be equal.
        if row["op_code"] == CREATE_TRIAL and row["datetime_start"] is not None:
            known = self._seen.get(hash(line))
            if known is not None:
                raise RowError(f"stands there twice: line {known} is the same")

    def follow(self, row: Row, line: bytes, number: int) -> None:
        """Counts a row that was checked, as Optuna does."""
        operation = row["op_code"]
        if operation == CREATE_STUDY and row["study_name"] not in self._names.values():
            self._names[self.studies] = row["study_name"]
            self.studies += 1
        elif operation == DELETE_STUDY:
            self._names.pop(row["study_id"], None)
        elif operation == CREATE_TRIAL and row["study_id"] in self._names:
            self.trials.append(number)
            self._seen[hash(line)] = number


# ---------------------------------------------------------------- reading and writing


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
    if _is_row(last):
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
