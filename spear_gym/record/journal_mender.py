"""A journal of what is whole in a damaged one.

A journal states no numbers of studies and trials: they are counted, so a lost row that made one
would shift all later ones. In its place stands a row that makes an empty one. How many plans may be
lost is written with the study, and a resumed search pays for as many again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spear_gym.record.journal_rows import (
    CREATE_STUDY,
    CREATE_TRIAL,
    HEAD,
    SET_STUDY_USER_ATTR,
    Follower,
    Row,
    RowError,
    could_be_cut,
    parse,
    problem_of,
)
from spear_gym.record.soundness import (
    LOST,
    REPAIRED,
    Examination,
    Fault,
    is_search,
    lost_in,
    unsound,
)

if TYPE_CHECKING:
    from optuna.storages.journal._storage import JournalStorageReplayResult

NAME = "spear ledger repair"
"""Stands as the writing process in the rows that a repair adds."""

ROW_BYTES = 500
"""A plan's row is longer, so a damaged stretch held at most one for so many bytes, and one more."""

_ROWS = re.compile(b"(?=" + re.escape(HEAD) + b")")
_PADDING = b"\0 \t\r"


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


class Mender:
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
            if self._refers or not is_search(study.user_attrs, trials):
                continue
            before[number] = lost_in(study.user_attrs)
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
