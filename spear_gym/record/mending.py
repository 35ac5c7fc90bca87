"""Looking at ledgers, and keeping what of a damaged one is whole."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spear_gym.boundary.files import write_bytes
from spear_gym.boundary.ownership import own
from spear_gym.record.journal import LinkLock
from spear_gym.record.journal_mender import Mender
from spear_gym.record.journal_rows import recognise
from spear_gym.record.soundness import LOST, Examination, Fault, is_search, lost_in, unsound
from spear_gym.record.storage import LedgerError, is_address, open_storage, own_study, refused
from spear_gym.record.study_slot import OWNER, SEEN

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial


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
        return Mender(Path(where)).examined()


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
    ours = is_search(study.user_attrs, trials)
    failures = sum("failure" in trial.user_attrs for trial in trials)
    kept = (t for t in trials if all(c <= 0 for c in t.system_attrs.get("constraints", ())))
    values = [trial.values[0] for trial in kept if trial.values]
    return Summary(
        study.study_name,
        len(trials) - failures,
        failures,
        lost_in(study.user_attrs),
        max(values, default=None),
        max((t.datetime_complete for t in trials if t.datetime_complete), default=None),
        ours,
    )


# ---------------------------------------------------------------- databases


def _examine_database(storage: BaseStorage) -> Examination:
    faults, plans = [], 0
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        if not is_search(study.user_attrs, trials):
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
            if wrong and is_search(study.user_attrs, trials):
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
    attributes[LOST] = lost_in(attributes) + sum(gone for _, _, gone in wrong)
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
