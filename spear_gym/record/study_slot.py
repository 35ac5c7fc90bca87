"""The owner of a study in a database, as an attribute of the study."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from spear_gym.boundary.ownership import Entry

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

OWNER = "owner"
SEEN = "owner seen"


class StudySlot:
    """A slot (see :mod:`spear_gym.boundary.ownership`) in the table of Optuna's study attributes.

    The attribute changes in one statement that compares and sets, which Optuna's own interface
    does not offer; of two processes that insert it, the table's constraint refuses one.

    Args:
        storage: the database.
        study: the study's number.
    """

    def __init__(self, storage: RDBStorage, study: int) -> None:
        from optuna.storages._rdb.models import StudyUserAttributeModel

        self._storage = storage
        self._study = study
        self._table = StudyUserAttributeModel.__table__

    @property
    def _engine(self) -> Engine:
        return self._storage.engine

    def read(self) -> Entry:
        """What stands there."""
        columns = self._table.c
        query = select(columns.key, columns.value_json).where(
            columns.study_id == self._study, columns.key.in_((OWNER, SEEN))
        )
        with self._engine.connect() as connection:
            found: dict[str, str] = {key: value for key, value in connection.execute(query)}  # noqa: C416
        try:
            silent = time.time() - float(found[SEEN])
        except (KeyError, ValueError):
            silent = float("inf")
        return Entry(found.get(OWNER), silent)

    def swap(self, old: str | None, new: str | None) -> bool:
        """Replaces ``old`` by ``new`` in one statement."""
        columns = self._table.c
        change: Any
        there = (columns.study_id == self._study, columns.key == OWNER, columns.value_json == old)
        if new is None:
            change = delete(self._table).where(*there)
        elif old is None:
            row = {"study_id": self._study, "key": OWNER, "value_json": new}
            change = insert(self._table).values(row)
        else:
            change = update(self._table).where(*there).values(value_json=new)
        if new is not None:
            self._seen()
        try:
            with self._engine.begin() as connection:
                return connection.execute(change).rowcount == 1
        except IntegrityError:  # another process inserted its name
            return False

    def beat(self, text: str) -> None:
        """Writes the time beside the owner's name."""
        if self.read().text == text:
            self._seen()

    def way_out(self) -> str:
        """How long an owner that is gone is waited for."""
        return "one that was killed is followed within two minutes"

    def _seen(self) -> None:
        self._storage.set_study_user_attr(self._study, SEEN, time.time())
