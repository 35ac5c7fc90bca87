"""What of a ledger is whole, what is not, and a ledger of what is.

A journal states no numbers of studies and trials: they are counted, so a lost row that made one
would shift all later ones. In its place a repair puts a row that makes an empty one. How many plans
may be lost is written with the study, and a resumed search pays for as many again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spear_gym.evaluation import Counts
from spear_gym.files import write_bytes
from spear_gym.record.journal import (
    CREATE_STUDY,
    CREATE_TRIAL,
    HEAD,
    Follower,
    LinkLock,
    Row,
    RowError,
    could_be_cut,
    parse,
    problem_of,
    recognise,
)
from spear_gym.record.ledger import LOST, REPAIRED, evaluation_of, failure_of
from spear_gym.record.ownership import own
from spear_gym.record.storage import LedgerError, is_address, open_storage, own_study, refused
from spear_gym.record.study_slot import OWNER, SEEN

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.storages.journal._storage import JournalStorageReplayResult
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

NAME = "spear ledger repair"
"""Stands as the writing process in the rows that a repair adds."""

ROW_BYTES = 500
"""A plan's row is longer, so a damaged stretch held at most one for so many bytes, and one more."""

SET_STUDY_USER_ATTR = 2

_ROWS = re.compile(b"(?=" + re.escape(HEAD) + b")")
_PADDING = b"\0 \t\r"


class Fault(NamedTuple):
    """What is not whole.

    Attributes:
        place: ``"line 3"``, or ``"row 3 of study 'name'"``.
        problem: the end of a sentence about it.
    """

    place: str
    problem: str


@dataclass(frozen=True)
class Examination:
    """What is whole in a ledger.

    Attributes:
        rows: evaluations that are whole.
        faults: what is not whole.
        content: a journal's lines that are whole, with those that a repair adds.
        unfinished: the last line is a row's first part, which the next search cuts off.
    """

    rows: int
    faults: tuple[Fault, ...]
    content: bytes = field(default=b"", repr=False)
    unfinished: bool = False


def examine(where: Path | str) -> Examination:
    """Looks for what is not whole; changes nothing.

    Args:
        where: a journal file or the address of a database.

    Raises:
        LedgerError: when there is no ledger there.
    """
    if is_address(where):
        return _examine_database(open_storage(where, make=False))
    with refused("read", where):
        if not recognise(Path(where), ours=isinstance(where, Path), mending=True):
            raise LedgerError(f"there is no ledger '{where}'")
        return _Mender(Path(where)).examined()


def repair(where: Path | str) -> tuple[Examination, str]:
    """Keeps what is whole, beside a copy of all that was there.

    Args:
        where: as for :func:`examine`. Nothing is changed when all is whole.

    Returns:
        What was found, and the copy's name: a file, or studies; empty when all was whole.

    Raises:
        LedgerError: when there is no ledger there.
        OwnedError: when a process writes to it.
    """
    if is_address(where):
        return _repair_database(str(where))
    path = Path(where)
    examine(where)
    with refused("repair", where), ExitStack() as stack:
        for file in sorted(path.parent.glob(f"{glob_of(path.name)}.*.owner")):
            stack.enter_context(own(file, f"the ledger '{path}'"))
        lock = LinkLock(path.resolve())
        lock.acquire()
        stack.callback(lock.release)
        found = examine(where)
        if not found.faults:
            return found, ""
        copy = _copy(path)
        mode = path.stat().st_mode
        write_bytes(path, found.content)
        path.chmod(mode)
    return found, str(copy)


def glob_of(name: str) -> str:
    """A file's name as a pattern that fits it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _copy(path: Path) -> Path:
    for number in range(1, 10_000):
        copy = path.with_name(f"{path.name}.damaged-{number}")
        try:
            copy.open("xb").close()
        except FileExistsError:
            continue
        shutil.copy2(path, copy)
        return copy
    raise LedgerError(f"there are too many copies of '{path}'")


class Summary(NamedTuple):
    """A study in a ledger.

    Attributes:
        name: of the study.
        plans: paid evaluations; of a study that is no search's record, trials.
        failures: plans that could not be evaluated.
        lost: plans that a repair may have lost.
        best: the largest reward of a plan that keeps its target, if there is one.
        last: when the last row was written.
        is_search: whether it is the record of a search.
    """

    name: str
    plans: int
    failures: int
    lost: int
    best: float | None
    last: datetime | None
    is_search: bool


def summaries(where: Path | str) -> list[Summary]:
    """The studies of a ledger; changes nothing.

    Raises:
        LedgerError: when there is none, or it is damaged.
    """
    storage = open_storage(where, make=False)
    with refused("read", where):
        return [
            _summary(study, storage.get_all_trials(study._study_id, deepcopy=False))
            for study in storage.get_all_studies()
        ]


def _summary(study: FrozenStudy, trials: list[FrozenTrial]) -> Summary:
    is_search = _is_ours(study.user_attrs, trials)
    failures = sum("failure" in trial.user_attrs for trial in trials)
    kept = (t for t in trials if all(c <= 0 for c in t.system_attrs.get("constraints", ())))
    values = [trial.values[0] for trial in kept if trial.values]
    return Summary(
        study.study_name,
        len(trials) - failures,
        failures,
        _lost(study.user_attrs),
        max(values, default=None),
        max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
        is_search,
    )


# ---------------------------------------------------------------- journals


class _Gap(NamedTuple):
    """Where something was lost.

    Attributes:
        at: number of kept rows before it.
        text: what stands there.
    """

    at: int
    text: bytes

    def find(self, pattern: bytes) -> str | None:
        """What is still to be read of it."""
        found = re.search(pattern, self.text)
        return None if found is None else found[1].decode(errors="replace")

    @property
    def plans(self) -> int:
        """How many plans may have stood there."""
        return 1 + len(self.text) // ROW_BYTES if self.text.strip() else 0


class _Kept(NamedTuple):
    line: int
    content: bytes
    row: Row


class _Mender:
    """Sorts the lines of a journal.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._kept: list[_Kept] = []
        self._gaps: list[_Gap] = []
        self._faults: dict[int, str] = {}
        self._follower = Follower()
        self._half = b""
        self._refers = False
        self._unfinished = False
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                self._take(number, line)

    def examined(self) -> Examination:
        """What is whole."""
        rows, lost, plans = self._sound(self._applied())
        rows += [
            _row(SET_STUDY_USER_ATTR, study_id=study, user_attr={LOST: number})
            for study, number in lost.items()
        ]
        faults = tuple(Fault(f"line {n}", text) for n, text in sorted(self._faults.items()))
        content = b"".join(row + b"\n" for row in rows)
        return Examination(plans, faults, content, self._unfinished)

    def _take(self, number: int, line: bytes) -> None:
        content = line.rstrip(b"\r\n")
        problem = problem_of(line)
        if not problem:
            self._keep(number, content)
            self._half = b""
            return
        if not line.endswith(b"\n") and could_be_cut(content):
            self._unfinished = True
            return
        # An end of line may have come into a row, or have been lost between two.
        joined = self._half + content
        if self._half and not problem_of(joined):
            self._faults[number] = f"is the rest of line {number - 1}, to which it is joined"
            self._gaps.pop()
            self._keep(number, joined)
            self._half = b""
            return
        pieces = [piece for piece in _ROWS.split(content) if piece]
        whole = {piece for piece in pieces if not problem_of(piece.strip(_PADDING))}
        if whole:
            problem += f"; what is whole in it, rows: {len(whole)}, is kept"
        self._faults[number] = problem
        self._half = b""
        for piece in pieces:
            if piece in whole:
                self._keep(number, piece.strip(_PADDING))
            elif piece.strip():
                self._gaps.append(_Gap(len(self._kept), piece))
                self._half = piece

    def _keep(self, number: int, content: bytes) -> None:
        row = parse(content)
        try:
            studies, trials = self._follower.studies, len(self._follower.trials)
            self._fill(CREATE_STUDY, row.get("study_id", -1) + 1 - studies, number)
            self._fill(CREATE_TRIAL, row.get("trial_id", -1) + 1 - trials, number)
            self._follower.check(row, content)
        except RowError as error:
            self._faults[number] = str(error)
            if "twice" not in str(error):
                self._gaps.append(_Gap(len(self._kept), content))
            return
        self._follower.follow(row, content, number)
        self._kept.append(_Kept(number, content, row))

    def _fill(self, operation: int, missing: int, line: int) -> None:
        """Makes what later rows belong to where the rows that made it were lost."""
        # Lines may be missing without a trace: the first study's, or that of the trial at hand.
        traceless = missing == 1 and (operation == CREATE_TRIAL or self._follower.studies == 0)
        if traceless and not self._gaps:
            self._faults[line] = "goes on from a line that is missing"
            self._gaps.append(_Gap(len(self._kept), b""))
        if not 0 < missing <= len(self._gaps):
            return  # the row itself is checked next
        for number in range(missing):
            gap = self._gaps.pop(-1)
            made = self._made(operation, gap, number)
            row = json.loads(made)
            self._kept.insert(gap.at, _Kept(0, made, row))
            self._follower.follow(row, made, 0)

    def _made(self, operation: int, gap: _Gap, number: int) -> bytes:
        if operation == CREATE_STUDY:
            name = gap.find(rb'"study_name":"([^"\\]+)"')
            if name is None:
                name = f"{REPAIRED}{self._follower.studies + 1}"
            return _row(CREATE_STUDY, study_name=name, directions=[2])
        study = gap.find(rb'"study_id":(\d{1,9})\D') or "0"
        # Begun and not ended; the rows after it tell the rest.
        start = f"1970-01-01T00:00:00.{number:06d}+00:00"
        return _row(CREATE_TRIAL, study_id=int(study), datetime_start=start)

    def _applied(self) -> tuple[JournalStorageReplayResult, list[_Kept]]:
        """Optuna's state after the rows that it can apply (the others go), and each trial's row."""
        from optuna.storages.journal._storage import JournalStorageReplayResult

        state = JournalStorageReplayResult(NAME)
        self._refers = any("trial_id" in kept.row for kept in self._kept)
        applied, made = [], []
        for kept in self._kept:
            number = len(state._trials)
            try:
                state.apply_logs([kept.row])
            except Exception as error:  # whatever a row makes Optuna raise
                self._faults[kept.line] = f"cannot be applied ({type(error).__name__})"
                gap = _Gap(0, kept.content)
                if not (self._refers and kept.row["op_code"] == CREATE_TRIAL):
                    self._gaps.append(gap)
                    continue
                content = self._made(CREATE_TRIAL, gap, number)
                kept = _Kept(0, content, json.loads(content))
                state.apply_logs([kept.row])
            applied.append(kept)
            if len(state._trials) > number:
                made.append(kept)
        self._kept = applied
        return state, made

    def _sound(
        self, replayed: tuple[JournalStorageReplayResult, list[_Kept]]
    ) -> tuple[list[bytes], dict[int, int], int]:
        """Drops plans that are damaged or stand there twice.

        Returns:
            The rows that are left; for each study the plans that may be lost, if that is new; and
            how many plans are whole.
        """
        state, made = replayed
        plans, lost, dropped, before = 0, Counter[int](), set[int](), {}
        for study in state.get_all_studies():
            number, trials = study._study_id, state.get_all_trials(study._study_id, None)
            if self._refers or not _is_ours(study.user_attrs, trials):
                continue
            before[number] = _lost(study.user_attrs)
            wrong = list(unsound(trials, lambda trial: f"line {made[trial._trial_id].line}"))
            for trial, problem, gone in wrong:
                self._faults[made[trial._trial_id].line] = problem
                dropped.add(id(made[trial._trial_id]))
                lost[number] += gone
            plans += sum("evaluation" in t.user_attrs for t in trials) - len(wrong)
        for gap in self._gaps:
            named = int(gap.find(rb'"study_id":(\d{1,9})\D') or -1)
            for number in {named} & before.keys() or before:
                lost[number] += gap.plans
        rows = [kept.content for kept in self._kept if id(kept) not in dropped]
        return rows, {s: n + before[s] for s, n in lost.items() if n}, plans


def _row(operation: int, **content: Any) -> bytes:
    row = {"op_code": operation, "worker_id": NAME, **content}
    return json.dumps(row, separators=(",", ":")).encode()


def _lost(attributes: dict[str, Any]) -> int:
    lost = attributes.get(LOST, 0)
    return lost if type(lost) is int and lost > 0 else 0


def _is_ours(attributes: dict[str, Any], trials: Iterable[FrozenTrial]) -> bool:
    """Whether a study is the record of a search; others may lie beside it."""
    return "identity" in attributes or any("evaluation" in t.user_attrs for t in trials)


def unsound(
    trials: Iterable[FrozenTrial], place: Callable[[FrozenTrial], str]
) -> Iterator[tuple[FrozenTrial, str, int]]:
    """The rows of a search's study that hold no whole plan, or one that was there before.

    Args:
        trials: of one study.
        place: where a row stands.

    Yields:
        The row, the problem, and how many plans are lost without it.
    """
    seen: dict[Counts, FrozenTrial] = {}
    for trial in trials:
        try:
            if "failure" in trial.user_attrs:
                failure_of(trial)
                continue
            counts = evaluation_of(trial).counts
        except ValueError as error:
            yield trial, str(error), 1
            continue
        if counts in seen:
            yield trial, f"records the plan of {place(seen[counts])} once more", 0
        seen.setdefault(counts, trial)


# ---------------------------------------------------------------- databases


def _examine_database(storage: BaseStorage) -> Examination:
    faults, plans = [], 0
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        if not _is_ours(study.user_attrs, trials):
            continue
        wrong = list(unsound(trials, lambda trial: f"row {trial.number}"))
        faults += [
            Fault(f"row {trial.number} of study '{study.study_name}'", problem)
            for trial, problem, _ in wrong
        ]
        plans += sum("evaluation" in t.user_attrs for t in trials) - len(wrong)
    return Examination(plans, tuple(faults))


def _repair_database(address: str) -> tuple[Examination, str]:
    """Makes each damaged study again without the damaged rows; the old one gets another name."""
    from optuna.storages import RDBStorage

    storage = open_storage(address, make=False)
    assert isinstance(storage, RDBStorage)
    found = _examine_database(storage)
    copies = []
    with refused("repair", address):
        for study in storage.get_all_studies() if found.faults else ():
            trials = storage.get_all_trials(study._study_id, deepcopy=False)
            wrong = list(unsound(trials, lambda trial: f"row {trial.number}"))
            if wrong and _is_ours(study.user_attrs, trials):
                with own_study(storage, address, study.study_name):
                    copies.append(f"study '{_made_again(storage, study, trials, wrong)}'")
    return found, ", ".join(copies)


def _made_again(
    storage: RDBStorage,
    study: FrozenStudy,
    trials: list[FrozenTrial],
    wrong: list[tuple[FrozenTrial, str, int]],
) -> str:
    """Gives a study's name to one of its whole rows, and returns the new name of the old one."""
    import optuna
    from optuna.storages._rdb.models import StudyModel
    from sqlalchemy import update

    name = study.study_name
    taken = {other.study_name for other in storage.get_all_studies()}
    copy = next(c for n in range(1, len(taken) + 2) if (c := f"{name} (damaged {n})") not in taken)
    unfinished = f"{name} (in repair)"
    if unfinished in taken:  # by a repair that was killed
        optuna.delete_study(study_name=unfinished, storage=storage)
    again = optuna.create_study(storage=storage, study_name=unfinished, direction="maximize")
    bad = {trial.number for trial, _, _ in wrong}
    again.add_trials([trial for trial in trials if trial.number not in bad])
    attributes = {k: v for k, v in study.user_attrs.items() if k not in (OWNER, SEEN)}
    attributes[LOST] = _lost(attributes) + sum(gone for _, _, gone in wrong)
    for key, value in attributes.items():
        again.set_user_attr(key, value)
    for key, value in study.system_attrs.items():
        storage.set_study_system_attr(again._study_id, key, value)
    table = StudyModel.__table__
    with storage.engine.begin() as connection:  # both names at once
        for old, new in ((name, copy), (unfinished, name)):
            connection.execute(
                update(table).where(table.c.study_name == old).values(study_name=new)
            )
    return copy
