"""The sensitivity study: one thing varied at a time, equal variants run once."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys

from spear_gym.agents import AgentError, SearchSession, run_search
from spear_gym.agents.compare.cells import RECORD, Cell, CompareSettings
from spear_gym.agents.compare.run import Comparison
from spear_gym.agents.compare.sensitivity import (
    COLUMNS,
    Variant,
    apart,
    run_study,
    variants,
    write_study,
)
from spear_gym.agents.compare.statistics import Interval
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import NoEstimator
from spear_gym.observation import MEASURED, NAMES
from spear_gym.reward import RewardError, TargetAwareReward
from spear_gym.target import make_judge

BASE = CompareSettings(("tiny",), ("a2c-default",), (0.4,), seeds=1, budget=70, lre="none")
LAMBDAS = (0.5, 5.0, 50.0)
WORKLOADS = {"tiny": toys.tiny()}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity")


@pytest.fixture(scope="module")
def ran(top: Path) -> tuple[list[Variant], list[Comparison], list[Cell]]:
    study, cells = variants(BASE, WORKLOADS, LAMBDAS), list[Cell]()
    found = run_study(study, WORKLOADS, top, on_cell=lambda cell, _: cells.append(cell))
    return study, found, cells


Ran = tuple[list[Variant], list[Comparison], list[Cell]]


def test_one_thing_is_varied_at_a_time(ran: Ran) -> None:
    study, _, cells = ran
    names = [(variant.study, variant.name) for variant in study]
    assert names == [
        ("penalty", "0.5"), ("penalty", "5"), ("penalty", "50"),
        ("observation", "all features"), ("observation", "without measured features"),
        ("scoring", "plain"), ("scoring", "recalibrated"), ("scoring", "refit"),
    ]  # fmt: skip
    for variant in study:
        varied = {
            "penalty": {"reward_settings": {"lam": 5.0}},
            "observation": {"hidden_features": ()},
            "scoring": {"scoring": None},
        }[variant.study]
        assert replace(variant.settings, **varied) == replace(BASE, reward_settings={"lam": 5.0})
    # The same search is run once: 5 is the default weight and recalibrated the workload's own way,
    # so both are the search with all features.
    assert len(cells) == 3 + 1 + 2


def test_variants_differ_in_what_they_should(ran: Ran) -> None:
    study, found, _ = ran
    plans = {
        (v.study, v.name): comparison.records[0]["plans"]
        for v, comparison in zip(study, found, strict=True)
    }
    assert plans["scoring", "recalibrated"] == plans["observation", "all features"]
    assert plans["penalty", "50"] != plans["penalty", "0.5"], "the reward teaches something else"
    hidden = plans["observation", "without measured features"]
    assert hidden != plans["observation", "all features"]
    scores = {
        v.name: dict(zip(map(tuple, r["plans"]), r["accuracy"], strict=True))
        for v, c in zip(study, found, strict=True)
        if v.study == "scoring"
        for r in c.records
    }
    common = set(scores["plain"]) & set(scores["refit"])
    assert [scores["plain"][plan] for plan in common] != [scores["refit"][plan] for plan in common]


def test_finished_variants_are_not_run_again(ran: Ran, top: Path) -> None:
    study, found, _ = ran
    again: list[Cell] = []
    assert run_study(study, WORKLOADS, top, on_cell=lambda c, _: again.append(c)) == found
    assert again == []
    (lost,) = (study[-1].folder(top)).rglob(RECORD)
    lost.unlink()
    run_study(study, WORKLOADS, top, on_cell=lambda c, _: again.append(c))
    assert again == [Cell("tiny", "a2c-default", 0.4, 0)]


def test_report_holds_every_variant(ran: Ran, tmp_path: Path) -> None:
    study, found, _ = ran
    files = {path.name for path in write_study(study, found, tmp_path)}
    assert {"report.html", "report.md", "penalty.png", "scoring.svg", "study.csv"} <= files
    with (tmp_path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["variant"]) for row in rows] == [(v.study, v.name) for v in study]
    assert set(COLUMNS) < set(rows[0])
    accuracy = found[0].records[0]["test_accuracy"]
    assert rows[0]["test accuracy, all runs"].startswith(f"{accuracy:.3f}")
    assert "Only 1 seeds" in (tmp_path / "report.md").read_text()


def test_report_shows_the_default_and_what_lies_apart(ran: Ran, tmp_path: Path) -> None:
    study, found, _ = ran
    write_study(study, found, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert '| reward | tar {"lam": 5.0} |' in text
    assert "inf (" not in text
    usual = Interval(0.9, 0.88, 0.92)
    near, below, above = Interval(0.87, 0.8, 0.88), Interval(0.8, 0.7, 0.87), Interval(1, 0.93, 1)
    assert "of 1, 9 lies apart from that of 5," in apart(
        "5", {"1": below, "2": near, "5": usual, "9": above}
    )
    assert "no equality either" in apart("5", {"2": near, "5": usual})


class Watching:
    """Walks one episode and keeps what it saw."""

    name = "watching"

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def search(self, session: SearchSession, seed: int) -> None:
        env = session.make_env()
        self.seen.append(env.reset()[0])
        ended = False
        while not ended:
            observation, _, ended, _, _ = env.step(np.array([0.3], np.float32))
            self.seen.append(observation)


def test_agents_see_hidden_features_as_zero() -> None:
    evaluator = PlanEvaluator(toys.tiny())
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    whole, blind = Watching(), Watching()
    run_search(whole, evaluator, judge, budget=1)
    run_search(blind, evaluator, judge, budget=1, hidden_features=MEASURED)
    hidden = [NAMES.index(name) for name in MEASURED]
    shown, masked = np.stack(whole.seen), np.stack(blind.seen)
    assert (shown[1:, hidden] > 0).any(0).all()
    assert not masked[:, hidden].any()
    rest = [index for index in range(len(NAMES)) if index not in hidden]
    assert np.array_equal(shown[:, rest], masked[:, rest])


def test_bad_input() -> None:
    two = replace(BASE, agents=("random", "tpe"))
    with pytest.raises(AgentError, match="the study varies one agent"):
        variants(two, WORKLOADS)
    with pytest.raises(AgentError, match="give each once"):
        variants(BASE, WORKLOADS, (1.0, 1.0))
    with pytest.raises(AgentError, match="at least one"):
        variants(BASE, WORKLOADS, ())
    with pytest.raises(RewardError, match="lam"):
        variants(BASE, WORKLOADS, (-1.0,))
    with pytest.raises(RewardError, match="lam"):
        variants(replace(BASE, reward="hard"), WORKLOADS)
