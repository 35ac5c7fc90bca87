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
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.sensitivity import (
    STUDY,
    Variant,
    read_study,
    run_study,
    variants,
    write_study,
)
from spear_gym.agents.compare.sensitivity_report import (
    COLUMNS,
    apart,
    behind_a_floor,
    write_study_report,
)
from spear_gym.agents.compare.statistics import Interval
from spear_gym.agents.folders import RunError
from spear_gym.env.observation import MEASURED, NAMES
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import RewardError, TargetAwareReward
from spear_gym.settings import Goal, PlanSettings

GOAL = Goal(lre="none", reward_settings={"lam": 5.0})
BASE = CompareSettings(
    ("tiny",), ("a2c-default",), (0.4,), seeds=1, budget=70, goal=Goal(lre="none")
)
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
            "penalty": {"goal": GOAL},
            "observation": {"hidden_features": ()},
            "scoring": {"plans": PlanSettings()},
        }[variant.study]
        assert replace(variant.settings, **varied) == replace(BASE, goal=GOAL)
    assert [variant.folder_name for variant in study] == [
        "penalty=0.5", "penalty=5", "penalty=50",
        "penalty=5", "hidden=input_rate+synops_committed",
        "scoring=plain", "penalty=5", "scoring=refit",
    ]  # fmt: skip
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
    files = {path.name for path in write_study_report(study, found, tmp_path)}
    assert {"report.html", "report.md", "penalty.png", "study.csv"} <= files
    assert "scoring.svg" not in files
    with (tmp_path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["variant"]) for row in rows] == [(v.study, v.name) for v in study]
    assert set(COLUMNS) < set(rows[0])
    accuracy, usual = (found[at].records[0]["test_accuracy"] for at in (0, 1))
    assert rows[0]["test accuracy, all runs"].startswith(f"{accuracy:.3f}")
    assert rows[0]["minus default"] == f"{accuracy - usual:+.3f} [–]"
    assert rows[1]["minus default"] == "–", "the default itself"
    text = (tmp_path / "report.md").read_text()
    assert "Only 1 seeds" in text
    assert '| reward | tar {"lam": 5.0} |' in text
    assert "inf (" not in text


def test_report_is_made_from_the_archives_alone(ran: Ran, top: Path, tmp_path: Path) -> None:
    study, _, _ = ran
    found = run_study(study, WORKLOADS, top)  # as it is now: another test runs a cell again
    write_study(study, top)
    for folder in {variant.folder_name for variant in study}:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ARCHIVE).write_bytes((top / folder / ARCHIVE).read_bytes())
    (tmp_path / STUDY).write_bytes((top / STUDY).read_bytes())
    again, comparisons = read_study(tmp_path)
    assert (again, comparisons) == (study, found)
    first = write_study_report(study, found, tmp_path / "a")
    second = write_study_report(again, comparisons, tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is damaged"),
        ('{"format": "other", "variants": []}', "its format is not"),
        ('{"format": "spear-gym sensitivity 1", "variants": []}', "the default is not among"),
        (
            '{"format": "spear-gym sensitivity 1", "variants": '
            '[{"study": "observation", "name": "all features", "folder": "../x"}]}',
            "no folder of its own",
        ),
        (
            '{"format": "spear-gym sensitivity 1", "variants": '
            '[{"study": "observation", "name": "all features", "folder": "x"}]}',
            "cannot read the comparison",
        ),
        (None, "study.json"),
    ],
)
def test_damaged_studies(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / STUDY).write_text(content)
    with pytest.raises(RunError, match=said):
        read_study(tmp_path)


def test_folders_of_older_studies_are_found(tmp_path: Path) -> None:
    study = variants(BASE, WORKLOADS, LAMBDAS)
    assert study[0].folder(tmp_path) == tmp_path / "penalty=0.5"
    older = tmp_path / "lam 0.5 hidden 0 scoring default"
    older.mkdir()
    assert study[0].folder(tmp_path) == older
    blind = tmp_path / "lam 5 hidden 2 scoring default"
    blind.mkdir()
    assert study[4].folder(tmp_path) == blind


def test_report_says_what_the_agent_does_to_rewards() -> None:
    said = behind_a_floor("spear-ddpg")
    assert "spear-ddpg raises every reward below 0 to 0 and cuts it 0.5 away" in said
    assert behind_a_floor("random") == behind_a_floor("a2c-default") == ""


def test_report_says_what_lies_apart() -> None:
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
        variants(replace(BASE, goal=Goal(reward="hard", lre="none")), WORKLOADS)
