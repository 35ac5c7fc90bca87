"""Rows of journals: what is one, what is not and why, and which files hold them.

Every line is checked when it is read, for Optuna would pass over some damage in silence: a row that
names a study or a trial which no earlier row made, or one that stands there twice.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from spear_gym.record.addresses import LedgerError

Row = dict[str, Any]

LARGEST_FILE = 2**31
LARGEST_LINE = 2**24
DEEPEST = 100
"""Nesting of a row; deeper ones cannot be copied or compared by Python."""

HEAD = b'{"op_code":'
"""What every row begins with."""

CREATE_STUDY, DELETE_STUDY, SET_STUDY_USER_ATTR, CREATE_TRIAL = 0, 1, 2, 4
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
        if is_row(first) or (cut and not first.endswith(b"\n")):
            return True
        # Damaged at its start, or something else: it is ours when any line is one of our rows.
        if any(map(is_row, iter(lambda: file.readline(LARGEST_LINE), b""))):
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


def is_row(line: bytes) -> bool:
    """Whether a line is a row as it is written."""
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
