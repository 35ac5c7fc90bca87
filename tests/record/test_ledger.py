"""The ledger: exact, one owner, and whole again after a killed process."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jobs
import optuna
import pytest
from ledgers import IDENTITY, JUDGE
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from spear_gym.evaluation import Evaluation, PlanEvaluator, PrefixMeasure
from spear_gym.judge import Candidate
from spear_gym.record.ledger import Ledger, Replay
from spear_gym.record.storage import LedgerError, open_storage, shown
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload


@pytest.fixture(scope="module")
def evaluator(tiny: Workload) -> PlanEvaluator:
    return PlanEvaluator(tiny)


@pytest.fixture(scope="module")
def candidates(evaluator: PlanEvaluator) -> list[Candidate]:
    return [JUDGE(evaluator.evaluate(counts)) for counts in ((3, 4, 5), (6, 8, 8), (1, 1, 1))]


def opened(path: Path, evaluator: PlanEvaluator, **changes: Any) -> Ledger:
    return Ledger(path, "a search", evaluator.space, IDENTITY | changes)


def test_round_trip_is_exact(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    path = tmp_path / "new" / "ledger.log"
    ledger = opened(path, evaluator)
    assert ledger.evaluations() == []
    for candidate in candidates:
        ledger.append(candidate)
    expected = [candidate.evaluation for candidate in candidates]
    assert ledger.evaluations() == expected
    assert opened(path, evaluator).evaluations() == expected


def test_floats_keep_every_bit(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    odd = (0.1 + 0.2, 1 / 3, math.nextafter(1.0, 2.0), 5e-324)
    prefixes = tuple(PrefixMeasure(x, x, x, x) for x in odd)
    evaluation = Evaluation((3, 4, 5), *odd, 7, odd[0], odd, prefixes, odd[1])
    ledger = opened(tmp_path / "ledger.log", evaluator)
    ledger.append(JUDGE(evaluation))
    assert opened(tmp_path / "ledger.log", evaluator).evaluations() == [evaluation]


def test_optuna_shows_the_search(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    ledger = opened(tmp_path / "ledger.log", evaluator)
    for candidate in candidates:
        ledger.append(candidate)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "ledger.log")))
    study = optuna.load_study(study_name="a search", storage=storage)
    assert [trial.params for trial in study.trials] == [
        dict(zip(("conv1", "conv2", "conv3"), c.evaluation.counts, strict=True)) for c in candidates
    ]
    assert [trial.value for trial in study.trials] == [c.reward for c in candidates]
    assert study.metric_names == ["reward"]
    assert {name: study.user_attrs[name] for name in IDENTITY} == IDENTITY
    row, evaluation = study.trials[0], candidates[0].evaluation
    assert row.user_attrs["prune_ratios"] == [0.5, 0.5, 0.375]
    assert tuple(row.user_attrs["layer_synops"]) == evaluation.layer_synops
    assert row.duration is not None
    assert row.duration.total_seconds() == pytest.approx(evaluation.seconds, abs=1e-5)


def test_optuna_shows_the_best_plan_that_keeps_the_target(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    """Even where the reward prefers one that is a little over it."""
    over = Candidate(candidates[1].evaluation, 0.303, 1.01, {"accuracy": 2.0})
    ledger = opened(tmp_path / "ledger.log", evaluator)
    for candidate in (candidates[2], over):
        ledger.append(candidate)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "ledger.log")))
    study = optuna.load_study(study_name="a search", storage=storage)
    assert candidates[2].feasible
    assert study.best_trial.number == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"seed": 1, "target": 0.3}}, "settings"),
        ({"versions": {"torch": "3"}}, "versions"),
        ({"fingerprint": {}}, "fingerprint"),
    ],
)
def test_ledger_of_another_search(
    tmp_path: Path, evaluator: PlanEvaluator, change: dict[str, Any], named: str
) -> None:
    opened(tmp_path / "ledger.log", evaluator)
    opened(tmp_path / "ledger.log", evaluator)
    with pytest.raises(LedgerError, match=rf"belongs to another search \(different: {named}\)"):
        opened(tmp_path / "ledger.log", evaluator, **change)


def test_ledger_of_an_earlier_form(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    """One attribute held the whole identity, and a row had no constraint."""
    path = tmp_path / "ledger.log"
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="a search", storage=storage, direction="maximize")
    study.set_user_attr("identity", IDENTITY)
    row = optuna.trial.create_trial(
        value=0.5, user_attrs={"evaluation": candidates[0].evaluation.to_json()}
    )
    study.add_trial(row)
    ledger = opened(path, evaluator)
    ledger.append(candidates[1])
    expected = [candidate.evaluation for candidate in candidates[:2]]
    assert opened(path, evaluator).evaluations() == expected
    with pytest.raises(LedgerError, match=r"\(different: versions\)"):
        opened(path, evaluator, versions={"torch": "3"})


def test_killed_before_the_identity_was_whole(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "ledger.log")))
    study = optuna.create_study(study_name="a search", storage=storage, direction="maximize")
    study.set_user_attr("settings", {"seed": 5})
    opened(tmp_path / "ledger.log", evaluator)
    assert opened(tmp_path / "ledger.log", evaluator).evaluations() == []


@pytest.mark.parametrize(
    "content", [b"not a journal\nat all\n", b"\x00\xff\xfe\n\n", b'{"op_code": 99}\n', b"[1]\n"]
)
def test_foreign_file(tmp_path: Path, evaluator: PlanEvaluator, content: bytes) -> None:
    path = tmp_path / "ledger.log"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.log' is no ledger"):
        opened(path, evaluator)
    assert path.read_bytes() == content


def test_folder_that_cannot_be_made(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot open the ledger"):
        opened(tmp_path / "file" / "ledger.log", evaluator)


def test_damaged_row(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    path = tmp_path / "ledger.log"
    ledger = opened(path, evaluator)
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name="a search", storage=storage)
    study.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={"evaluation": {"counts": []}}))
    with pytest.raises(LedgerError, match=r"line 6 of the ledger .* is damaged: it holds no whole"):
        ledger.evaluations()


def test_row_cut_off_by_a_killed_process(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    path = tmp_path / "ledger.log"
    ledger = opened(path, evaluator)
    for candidate in candidates[:2]:
        ledger.append(candidate)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    path.write_bytes(whole[:-1])
    assert len(opened(path, evaluator).evaluations()) == 2, "only the end of the line was lost"
    assert path.read_bytes() == whole
    for lost in (2, last // 2, last - 1):
        path.write_bytes(whole[:-lost])
        again = opened(path, evaluator)
        assert again.evaluations() == [candidates[0].evaluation]
        again.append(candidates[2])
        assert opened(path, evaluator).evaluations() == [
            candidates[0].evaluation,
            candidates[2].evaluation,
        ]


@pytest.mark.slow
def test_lock_left_by_a_killed_process(
    tmp_path: Path,
    evaluator: PlanEvaluator,
    candidates: list[Candidate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a relative path Optuna's link would dangle, and its age would never be seen."""
    monkeypatch.chdir(tmp_path)
    path = Path("run") / "ledger.log"
    ledger = opened(path, evaluator)
    ledger.append(candidates[0])
    # What a process leaves behind when it is killed while it writes a row.
    ledger._study._storage._backend._lock.acquire()  # type: ignore[attr-defined]
    start = time.monotonic()
    again = opened(path, evaluator)
    again.append(candidates[1])
    assert time.monotonic() - start < 60
    assert [e.counts for e in again.evaluations()] == [(3, 4, 5), (6, 8, 8)]


def test_database_instead_of_a_file(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    address = f"sqlite:///{tmp_path / 'ledger.db'}"
    first = Ledger(address, "a search", evaluator.space, IDENTITY)
    other = Ledger(address, "another search", evaluator.space, {"settings": {"seed": 1}})
    for candidate in candidates:
        first.append(candidate)
    other.append(candidates[0])
    expected = [candidate.evaluation for candidate in candidates]
    assert Ledger(address, "a search", evaluator.space, IDENTITY).evaluations() == expected
    assert other.evaluations() == expected[:1]
    with pytest.raises(LedgerError, match="belongs to another search"):
        Ledger(address, "another search", evaluator.space, IDENTITY)
    fresh = Ledger(address, "another search", evaluator.space, IDENTITY, overwrite=True)
    assert fresh.evaluations() == []
    assert Ledger(address, "a search", evaluator.space, IDENTITY).evaluations() == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("sqlite:////no/such/folder/ledger.db", "cannot open the ledger .*unable to open"),
        ("oracel://host/name", "'oracel://host/name' is no address of a database"),
        ("postgresql://me:secret@127.0.0.1:9/none", r"me:\*\*\*@127|needs a driver"),
        ("mysql+pymysql://me:secret@host/none", "needs a driver that is not installed"),
    ],
)
def test_unreachable_databases(where: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as caught:
        open_storage(where)
    assert "secret" not in str(caught.value)
    assert "secret" not in shown(where)


def test_read_only_database(tmp_path: Path, evaluator: PlanEvaluator) -> None:
    path = tmp_path / "ledger.db"
    Ledger(f"sqlite:///{path}", "a search", evaluator.space, IDENTITY)
    address = f"sqlite:///file:{path}?mode=ro&uri=true"
    with pytest.raises(LedgerError, match=r"cannot open the ledger .*readonly database"):
        Ledger(address, "a search", evaluator.space, IDENTITY)


def test_two_processes_write_one_journal(
    tmp_path: Path, evaluator: PlanEvaluator, candidates: list[Candidate]
) -> None:
    path = tmp_path / "ledger.log"
    context = (path, evaluator.space, candidates[0], tmp_path)
    names = ["one", "two"]
    done = dict(run_tasks(jobs.write_rows, names, context=context, workers=2))
    assert done == {0: 60, 1: 60}
    for name in names:
        rows = Ledger(path, name, evaluator.space, {"study": name}).evaluations()
        assert len({row.counts for row in rows}) == 60
        assert {row.accuracy for row in rows} == {candidates[0].evaluation.accuracy}


def test_replay_follows_the_record() -> None:
    replay = Replay([(1, 2), (3, 4)])
    assert replay.check((1, 2))
    assert replay.check((3, 4))
    assert not replay.check((5, 6)), "what comes after the record is new"
    assert not replay.check((1, 2))


def test_replay_that_diverges() -> None:
    replay = Replay([(1, 2), (3, 4), (5, 6)])
    replay.check((1, 2))
    with pytest.raises(
        LedgerError, match=r"diverged at evaluation 2: it asks for plan \(5, 6\), .* \(3, 4\)"
    ):
        replay.check((5, 6))
