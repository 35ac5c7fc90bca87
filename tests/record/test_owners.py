"""A study has one owner: in journals, SQLite and PostgreSQL alike."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import databases
import optuna
import pytest
from ledgers import IDENTITY, JUDGE

from spear_gym.boundary.ownership import SILENT_SECONDS, OwnedError, Owner
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Candidate
from spear_gym.record.ledger import Ledger
from spear_gym.record.mending import examine, repair, summaries
from spear_gym.record.storage import LedgerError, open_storage, own_study
from spear_gym.workload import Workload

Where = Path | str


@pytest.fixture(scope="module")
def evaluator(tiny: Workload) -> PlanEvaluator:
    return PlanEvaluator(tiny)


@pytest.fixture(scope="module")
def candidates(evaluator: PlanEvaluator) -> list[Candidate]:
    one = evaluator.evaluate((3, 4, 5))
    return [JUDGE(replace(one, counts=(n, n, n))) for n in range(1, 7)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if databases.missing():
        pytest.skip(databases.missing())
    with databases.server(tmp_path_factory.mktemp("postgres")) as address:
        yield address


def drop_all(address: str) -> None:
    """Empties the server's database."""
    import psycopg

    with psycopg.connect(address) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    if request.param == "journal":
        return tmp_path / "ledger.log"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    address: str = request.getfixturevalue("server") + "postgres"
    drop_all(address)
    return address


def opened(where: Where, evaluator: PlanEvaluator) -> Ledger:
    return Ledger(where, "a search", evaluator.space, IDENTITY)


def hold(where: Where, evaluator: PlanEvaluator, connection: Connection) -> None:
    """Opens the ledger and says so, or why not; waits until it is told to end."""
    try:
        with opened(where, evaluator):
            connection.send("mine")
            connection.recv()
    except (OwnedError, LedgerError) as error:
        connection.send(str(error))


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A forked process, which has its libraries already."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*arguments, there))
    process.start()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()


def test_second_process_is_told_who(where: Where, evaluator: PlanEvaluator) -> None:
    with child(hold, where, evaluator) as (process, connection):
        assert connection.recv() == "mine"
        said = rf"the study 'a search' in .* belongs to process {process.pid} on '"
        with pytest.raises(OwnedError, match=said) as caught:
            opened(where, evaluator)
        assert databases.PASSWORD not in str(caught.value)
        with Ledger(where, "another search", evaluator.space, {"settings": {"seed": 1}}):
            pass
        connection.send("end")
        process.join()
    with opened(where, evaluator):
        pass


def test_killed_owner_is_followed(
    where: Where, evaluator: PlanEvaluator, caplog: pytest.LogCaptureFixture
) -> None:
    with child(hold, where, evaluator) as (process, connection):
        assert connection.recv() == "mine"
        process.kill()
        process.join()
        with caplog.at_level(logging.WARNING, "spear_gym"), opened(where, evaluator):
            pass
        assert f"from process {process.pid}" in caplog.text
        assert databases.PASSWORD not in caplog.text


def test_two_that_come_at_once(where: Where, evaluator: PlanEvaluator) -> None:
    with opened(where, evaluator):
        pass
    for _ in range(3):
        with (
            child(hold, where, evaluator) as (_, one),
            child(hold, where, evaluator) as (_, two),
        ):
            said = sorted([one.recv(), two.recv()])
            assert said[0] == "mine"
            assert "belongs to process" in said[1]


def test_two_that_come_first_at_once(where: Where, evaluator: PlanEvaluator) -> None:
    """Where nothing is made yet."""
    with child(hold, where, evaluator) as (_, one), child(hold, where, evaluator) as (_, two):
        said = sorted([one.recv(), two.recv()])
        assert said[0] == "mine"
        assert "belongs to process" in said[1]


def test_rows_of_another_are_noticed(
    where: Where, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    """Written by an older version, say, which knows no owners."""
    with opened(where, evaluator) as ledger:
        ledger.append(candidates[0])
        study = optuna.load_study(study_name="a search", storage=open_storage(where))
        study.add_trial(study.trials[0])
        with pytest.raises(LedgerError, match="another process wrote 1 rows to 'a search'"):
            ledger.append(candidates[1])
        assert len(study.trials) == 2


def test_owner_that_stood_still_notices(
    where: Where, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    """It was followed meanwhile by one on another machine."""
    with opened(where, evaluator) as ledger:
        line = json.loads(Owner.current().dumps()) | {"machine": "another", "host": "another"}
        put(where, json.dumps(line))
        with pytest.raises(OwnedError, match=r"was taken over by process .* on 'another'"):
            ledger.append(candidates[0])
        assert ledger.evaluations() == []


@pytest.mark.parametrize(
    ("silent", "refused"), [(0, True), (SILENT_SECONDS / 2, True), (2 * SILENT_SECONDS, False)]
)
def test_owner_on_another_machine(
    where: Where, evaluator: PlanEvaluator, silent: float, refused: bool
) -> None:
    with opened(where, evaluator):
        pass
    line = json.loads(Owner.current().dumps()) | {"machine": "another", "host": "another"}
    put(where, json.dumps(line), silent)
    if refused:
        with pytest.raises(OwnedError, match=r"belongs to process .* on 'another'"):
            opened(where, evaluator)
    else:
        opened(where, evaluator).close()


def put(where: Where, line: str, silent: float = 0.0) -> None:
    """Writes an owner's name over another's."""
    storage = open_storage(where)
    if isinstance(where, Path):
        with own_study(storage, where, "a search") as lease:
            path = Path(lease._slot.way_out().split("'")[1])
            path.write_text(line)
            os.utime(path, (time.time() - silent,) * 2)
            return
    study = storage.get_study_id_from_name("a search")
    storage.set_study_user_attr(study, "owner", json.loads(line))
    storage.set_study_user_attr(study, "owner seen", time.time() - silent)


def test_sign_of_life_in_a_database(
    where: Where, evaluator: PlanEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(where, Path):
        return  # tested with the files
    monkeypatch.setattr("spear_gym.boundary.ownership.BEAT_SECONDS", 0.01)
    with opened(where, evaluator):
        storage = open_storage(where)
        study = storage.get_study_id_from_name("a search")
        storage.set_study_user_attr(study, "owner seen", 0.0)
        deadline = time.monotonic() + 10
        while storage.get_study_user_attrs(study)["owner seen"] < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert storage.get_study_user_attrs(study)["owner seen"] > 1


def test_overwritten_study_stays_owned(
    where: Where, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    with opened(where, evaluator) as ledger:
        ledger.append(candidates[0])
    with Ledger(where, "a search", evaluator.space, IDENTITY, overwrite=True) as ledger:
        assert ledger.evaluations() == []
        with child(hold, where, evaluator) as (_, connection):
            assert "belongs to process" in connection.recv()
        ledger.append(candidates[1])
    with opened(where, evaluator) as ledger:
        assert [e.counts for e in ledger.evaluations()] == [(2, 2, 2)]


def test_doubled_plans_are_repaired(
    where: Where, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    """As two searches at once left them before there were owners."""
    with opened(where, evaluator) as ledger:
        for candidate in candidates[:3]:
            ledger.append(candidate)
    study = optuna.load_study(study_name="a search", storage=open_storage(where))
    for row in study.trials[:2]:
        row.user_attrs["accuracy"] = 0.0  # not the same row: the other process's
        study.add_trial(row)
    with pytest.raises(LedgerError, match=r"records the plan of .* once more.*ledger repair"):
        opened(where, evaluator)
    assert len(examine(where).faults) == 2
    with child(hold_study, where) as (_, connection):
        assert connection.recv() == "mine"
        with pytest.raises(OwnedError):
            repair(where)
    found, copy = repair(where)
    assert found.rows == 3
    assert "damaged" in copy
    assert not examine(where).faults or "damaged" in str(examine(where).faults[0])
    with opened(where, evaluator) as ledger:
        assert [e.counts for e in ledger.evaluations()] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
        assert ledger.lost == 0
        ledger.append(candidates[3])
    assert summaries(where)[-1].plans >= 4


def hold_study(where: Where, connection: Connection) -> None:
    with own_study(open_storage(where), where, "a search"):
        connection.send("mine")
        connection.recv()
