"""Searches for several targets that share their plans, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toys

from spear_gym.agents import AgentFailed, SearchSession, make_agent
from spear_gym.agents.folders import RunError
from spear_gym.agents.front import (
    FrontPoint,
    SearchInterrupted,
    SearchJob,
    Watcher,
    search_targets,
    target_folders,
)
from spear_gym.agents.reading import load_network, read_result, read_settings
from spear_gym.agents.run_folder import SearchReport, SearchSettings
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import TargetError
from spear_gym.settings import Goal
from spear_gym.workload import Workload, measure

TARGETS = (0.6, 0.4)
SETTINGS = SearchSettings("tiny", "random", goal=Goal(lre="none"), budget=6, seed=1)


@pytest.fixture(scope="module")
def tiny() -> Workload:
    return toys.tiny()


class Written(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.reports: dict[float, SearchReport] = {}

    def search(self, job: SearchJob) -> None:
        self.told.append(f"search {job.judge.target}")

    def candidate(self, session: SearchSession) -> None:
        self.told.append(f"plan {session.spent}")

    def searched(self, job: SearchJob) -> None:
        self.told.append(f"searched {job.judge.target}")

    def tune(self, job: SearchJob) -> None:
        self.told.append(f"tune {job.judge.target}")

    def report(self, job: SearchJob, report: SearchReport) -> None:
        self.told.append(f"report {job.judge.target}")
        self.reports[job.judge.target] = report


def search(
    tiny: Workload, folder: Path, agent: str = "random", **given: object
) -> list[FrontPoint]:
    evaluator = SETTINGS.plans.evaluator(tiny)
    return search_targets(make_agent("random"), evaluator, SETTINGS, TARGETS, folder, **given)  # type: ignore[arg-type]


def test_each_target_gets_the_best_of_all_plans(tiny: Workload, tmp_path: Path) -> None:
    watcher = Written()
    points = search(tiny, tmp_path / "front", watcher=watcher)
    assert [point.target for point in points] == list(TARGETS)
    plans = [f"plan {number}" for number in range(1, 7)]
    assert watcher.told == [
        "search 0.6", *plans, "searched 0.6", "search 0.4", *plans, "searched 0.4",
        "tune 0.6", "report 0.6", "tune 0.4", "report 0.4",
    ]  # fmt: skip
    pool = {c.evaluation.counts for r in watcher.reports.values() for c in r.search.candidates}
    evaluator = PlanEvaluator(tiny)
    for point in points:
        report = watcher.reports[point.target]
        assert report.scored_plans == len(pool)
        scored = [evaluator.evaluate(counts) for counts in pool]
        feasible = [e for e in scored if e.synops_fraction <= point.target]
        best = max(feasible, key=lambda e: (e.accuracy, -e.synops_fraction))
        assert report.candidate.evaluation.counts == best.counts
        folder = tmp_path / "front" / point.folder
        assert read_settings(folder).goal.target == point.target
        figures = measure(tiny, load_network(folder, tiny), "test")
        assert figures.accuracy == point.accuracy == read_result(folder)["test"]["accuracy"]
    front = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [row["target"] for row in front["points"]] == list(TARGETS)


def test_interrupted_and_resumed(tiny: Workload, tmp_path: Path) -> None:
    class Stopping(Written):
        def candidate(self, session: SearchSession) -> None:
            super().candidate(session)
            if len(self.told) == 11:
                raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted, match="after 2 evaluations") as stopped:
        search(tiny, tmp_path / "front", watcher=Stopping())
    assert stopped.value.folder == tmp_path / "front" / "target-0.4"
    with pytest.raises(RunError, match="exists"):
        search(tiny, tmp_path / "front")
    resumed = search(tiny, tmp_path / "front", resume=True)
    assert resumed == search(tiny, tmp_path / "whole")
    assert search(tiny, tmp_path / "front", overwrite=True) == resumed


class Failing:
    """An agent that ends in an error after its first plan."""

    name = "failing"

    def search(self, session: SearchSession, seed: int) -> None:
        session.submit([0.5] * len(session.evaluator.space))
        raise ZeroDivisionError(seed)


def test_an_agent_that_fails_leaves_its_best_plan(tiny: Workload, tmp_path: Path) -> None:
    evaluator = PlanEvaluator(tiny)
    with pytest.raises(AgentFailed, match=r"the best plan so far is in .*target-0\.6/plan\.json"):
        search_targets(Failing(), evaluator, SETTINGS, TARGETS, tmp_path / "front")
    assert (tmp_path / "front" / "target-0.6" / "plan.json").is_file()


@pytest.mark.parametrize("targets", [(), (0.5, 0.5)])
def test_targets_that_cannot_be(targets: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="give one or more, and each once"):
        target_folders(tmp_path / "front", targets)


def test_nothing_is_paid_for_a_target_out_of_range(tiny: Workload, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"target is 1\.5"):
        search_targets(
            make_agent("random"), PlanEvaluator(tiny), SETTINGS, (0.5, 1.5), tmp_path / "front"
        )
    assert not (tmp_path / "front").exists()
