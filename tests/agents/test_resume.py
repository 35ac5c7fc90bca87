"""Every agent resumes exactly: what a killed process leaves behind leads to the same end."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import toys
from small_agents import SETTINGS

from spear_gym.agents import AGENTS, make_agent
from spear_gym.agents.compare.cells import CompareSettings
from spear_gym.agents.compare.run import ARCHIVE, Comparison, compare
from spear_gym.agents.folders import RUN_FORMAT
from spear_gym.agents.pipeline import search_in_folder
from spear_gym.agents.run_folder import SearchSettings
from spear_gym.evaluation import Counts, Evaluation, EvaluationFailed, PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.record.ledger import Ledger
from spear_gym.record.mending import repair
from spear_gym.record.storage import LedgerError
from spear_gym.reward import TargetAwareReward
from spear_gym.settings import Goal
from spear_gym.simulation.walk import Walk

BUDGET = 16


def run(
    name: str, folder: Path, evaluator: PlanEvaluator | None = None
) -> tuple[list[Evaluation], int, bytes]:
    """A search in a folder: its ledger, its simulator runs, its plan."""
    evaluator = evaluator or PlanEvaluator(toys.tiny())
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    settings = SearchSettings("tiny", name, budget=BUDGET, agent_settings=SETTINGS.get(name, {}))
    agent = make_agent(name, settings.agent_settings)
    runs = evaluator.runs
    search_in_folder(agent, evaluator, judge, settings, folder)
    plan = (folder / "plan.json").read_bytes()
    return rows(folder, evaluator), evaluator.runs - runs, plan


def rows(folder: Path, evaluator: PlanEvaluator) -> list[Evaluation]:
    identity = json.loads((folder / "settings.json").read_text())
    assert identity.pop("format") == RUN_FORMAT
    settings = identity["settings"]
    name = f"tiny {settings['agent']} seed {settings['seed']}"
    with Ledger(folder / "ledger.log", name, evaluator.space, identity) as ledger:
        return ledger.evaluations()


def untimed(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    return [e.to_json() | {"seconds": None} for e in evaluations]


@pytest.fixture(autouse=True)
def short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a killed process left behind is taken over sooner."""
    monkeypatch.setattr("spear_gym.record.journal.LOCK_SECONDS", 0.4)


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A child of this process, so that it has its libraries already."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def kill_when(process: BaseProcess, written: Callable[[], int], more: int) -> bool:
    """Kills a process when it has written more bytes; whether it did not end before."""
    before = written()
    while process.is_alive() and written() < before + more:
        time.sleep(0.001)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


class Cramped(PlanEvaluator):
    """Memory runs out for some plans, and for some first decisions."""

    def _walk(self, key: Counts) -> Walk:
        if sum(key) % 4 == 1:
            raise EvaluationFailed(f"plan {key}: out of memory", "memory")
        return super()._walk(key)


@pytest.mark.parametrize("name", ["tpe", "a2c-default"])
def test_memory_that_ran_out_only_once(name: str, tmp_path: Path) -> None:
    """A resumed search fails where the first part did, though there is memory enough now."""
    whole, _, plan = run(name, tmp_path / "whole", Cramped(toys.tiny()))
    lines = (tmp_path / "whole" / "ledger.log").read_bytes().splitlines(keepends=True)
    failed = [number for number, line in enumerate(lines) if b'"failure"' in line]
    assert failed
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "ledger.log").write_bytes(b"".join(lines[: failed[-1] + 1]))
    again, _, _ = run(name, tmp_path / "cut")
    before = sum(b'"evaluation"' in line for line in lines[: failed[-1]])
    assert untimed(again)[:before] == untimed(whole)[:before]
    assert len(again) == BUDGET, "it goes on"
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    again, runs, same = run(name, tmp_path / "resumed")
    assert (untimed(again), runs, same) == (untimed(whole), 0, plan)


@pytest.mark.parametrize("name", ["tpe", "a2c-default"])
def test_repaired_ledger_is_resumed(name: str, tmp_path: Path) -> None:
    """Plans of damaged lines are paid for again, and no others."""
    whole, _, plan = run(name, tmp_path / "run")
    path = tmp_path / "run" / "ledger.log"
    lines = path.read_bytes().splitlines(keepends=True)
    for number in (7, 9):
        lines[number] = lines[number][:100] + b"\0" * 20 + lines[number][120:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=r"line 8 of the ledger .*spear ledger repair"):
        run(name, tmp_path / "run")
    repair(path)
    again, runs, same = run(name, tmp_path / "run")
    assert 0 < runs <= 2, "the smallest plan is known before"
    assert same == plan
    assert {e.counts for e in again} == {e.counts for e in whole}
    again, runs, same = run(name, tmp_path / "run")
    assert (len(again), runs, same) == (len(whole), 0, plan)


@pytest.mark.parametrize("name", AGENTS)
def test_search_cut_off_or_killed_anywhere(name: str, tmp_path: Path) -> None:
    """The ledger cut off at any byte, the process killed twice: the same rows again.

    None is paid twice.
    """
    whole, _, plan = run(name, tmp_path / "whole")
    content = (tmp_path / "whole" / "ledger.log").read_bytes()
    head, chance = content.index(b'"evaluation"'), random.Random(name)

    def resumes(folder: Path) -> None:
        ledger = folder / "ledger.log"
        kept = ledger.read_bytes().count(b'"evaluation"')
        again, runs, same = run(name, folder)
        assert untimed(again) == untimed(whole)
        assert same == plan
        assert runs <= len(whole) - kept + 1, "the row that was cut off may be run again, no other"
        assert len({e.counts for e in again}) == len(again)

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "ledger.log").write_bytes(content[: chance.randrange(head, len(content))])
    resumes(tmp_path / "cut")

    ledger, kills = tmp_path / "killed" / "ledger.log", 0
    while kills < 2:
        more = chance.randrange(1, len(content) // 2)
        if kill_when(start(run, name, ledger.parent), lambda: size(ledger), more):
            kills += 1
        else:  # it was too fast
            shutil.rmtree(ledger.parent)
            kills = 0
    resumes(ledger.parent)


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


KILLED = CompareSettings(
    workloads=("tiny",),
    agents=("random", "evolution", "cma-es", "ars-default"),
    targets=(0.4,),
    seeds=2,
    budget=60,
    goal=Goal(lre="none"),
)


@pytest.mark.slow
def test_comparison_killed_twenty_times(tmp_path: Path) -> None:
    workloads = {"tiny": toys.tiny()}

    def written() -> int:
        return sum(size(path) for path in (tmp_path / "killed").glob("cells/*/*/*/ledger.log"))

    chance = random.Random(0)
    for _ in range(20):
        process = start(compare, KILLED, workloads, tmp_path / "killed")
        ended = not kill_when(process, written, chance.randrange(1, 12_000))
        assert not ended, "it ended before it could be killed often enough"
    for folder in ("killed", "whole"):
        process = start(compare, KILLED, workloads, tmp_path / folder)
        process.join(300)
        assert process.exitcode == 0
    killed, whole = (Comparison.load(tmp_path / name / ARCHIVE) for name in ("killed", "whole"))
    # Answers that cells share depend on what the process has seen, so do the runs and the times.
    free = ("seconds", "search_seconds", "evaluation_seconds", "simulator_runs")
    for one, other in zip(killed.records, whole.records, strict=True):
        assert {k: v for k, v in one.items() if k not in free} == {
            k: v for k, v in other.items() if k not in free
        }
    assert killed.failures == whole.failures == {}
    for cell in KILLED.cells():
        folders = [cell.folder(tmp_path / name) for name in ("killed", "whole")]
        one, other = (untimed(rows(folder, PlanEvaluator(toys.tiny()))) for folder in folders)
        assert one == other
