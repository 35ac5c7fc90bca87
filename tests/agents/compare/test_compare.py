"""Comparisons: every cell run once, failures kept, archives that rebuild the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

from spear_gym.agents import AGENTS, AgentError, SearchSession, make_agent, run_search
from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.cells import RECORD, Bench, Cell, CompareSettings, run_cell
from spear_gym.agents.compare.contrasts import contrasts
from spear_gym.agents.compare.records import anytime
from spear_gym.agents.compare.report import page_of, write_report
from spear_gym.agents.compare.run import ARCHIVE, Comparison, compare
from spear_gym.agents.folders import RunError
from spear_gym.env.observation import ObservationError
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import TargetError, make_judge
from spear_gym.lre import NoEstimator
from spear_gym.pruning.criteria import CriterionError
from spear_gym.pruning.plan import PlanError
from spear_gym.report.page import Page, Section, Table, html, write_page
from spear_gym.reward import RewardError, TargetAwareReward
from spear_gym.settings import Goal, PlanSettings
from spear_gym.workload import measure

SETTINGS = CompareSettings(
    workloads=("tiny",),
    agents=("random", "uniform", "evolution"),
    targets=(0.5, 0.4),
    seeds=2,
    budget=9,
    goal=Goal(lre="none"),
)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def comparison(top: Path) -> Comparison:
    return compare(SETTINGS, {"tiny": toys.tiny()}, top)


def test_every_cell_once_on_equal_budgets(comparison: Comparison) -> None:
    cells = [Cell(**record["cell"]) for record in comparison.records]
    assert cells == SETTINGS.cells()
    assert len(set(cells)) == 2 * 2 * 3
    for record in comparison.records:
        paid = 9 if record["cell"]["agent"] != "uniform" else record["paid"]
        assert record["paid"] == paid == len({tuple(plan) for plan in record["plans"]})
        assert record["spent"] == list(range(1, paid + 1))


def test_cell_equals_a_search_of_its_own(comparison: Comparison) -> None:
    """Answers that other cells left behind change nothing but time."""
    record = comparison.records[-1]
    cell = Cell(**record["cell"])
    evaluator = PlanEvaluator(toys.tiny())
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=cell.target)
    alone = run_search(make_agent(cell.agent), evaluator, judge, budget=9, seed=cell.seed)
    assert [tuple(plan) for plan in record["plans"]] == [
        c.evaluation.counts for c in alone.candidates
    ]
    assert record["accuracy"] == [c.accuracy for c in alone.candidates]
    assert record["simulator_runs"] < alone.runs == 9
    tuned = evaluator.finetune(alone.best.evaluation.counts, seed=cell.seed)
    measured = measure(toys.tiny(), tuned.model, "test")
    assert record["test_accuracy"] == measured.accuracy
    fraction = measured.synops / toys.tiny().reference("test").synops
    assert record["test_fraction"] == fraction
    assert record["kept"] == (fraction <= cell.target)


def test_finished_cells_are_not_run_again(comparison: Comparison, top: Path) -> None:
    ran: list[Cell] = []
    again = compare(SETTINGS, {"tiny": toys.tiny()}, top, on_cell=lambda cell, _: ran.append(cell))
    assert ran == []
    assert again == comparison
    more = replace(SETTINGS, seeds=3, agents=("random",), targets=(0.5,))
    grown = compare(more, {"tiny": toys.tiny()}, top, on_cell=lambda cell, _: ran.append(cell))
    assert ran == [Cell("tiny", "random", 0.5, 2)]
    assert len(grown.records) == 3


def test_cells_are_restored_from_the_archive(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path / ARCHIVE)
    ran: list[Cell] = []
    more = replace(SETTINGS, seeds=3, agents=("random",), targets=(0.5,))
    grown = compare(more, {"tiny": toys.tiny()}, tmp_path, on_cell=lambda cell, _: ran.append(cell))
    assert ran == [Cell("tiny", "random", 0.5, 2)]
    kept = [r for r in comparison.records if Cell(**r["cell"]) in more.cells()]
    assert list(grown.records[:2]) == kept
    again = compare(SETTINGS, {"tiny": toys.tiny()}, tmp_path)
    assert again.records == comparison.records, "the other cells were restored, too"


@pytest.mark.parametrize("kept", ["cells", "archive"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 10}, "were run with budget = 9, and this comparison has 10"),
        ({"goal": Goal(lre="none", reward_settings={"lam": 3.0})}, "were run with reward_settings"),
        ({"plans": PlanSettings(scoring="plain")}, "were run with network and data of tiny"),
        ({"plans": PlanSettings(min_channels=2)}, "were run with min_channels = 1, and this"),
    ],
)
def test_cells_of_another_kind_are_not_mixed_in(
    comparison: Comparison, top: Path, tmp_path: Path, kept: str, changes: dict[str, Any], said: str
) -> None:
    if kept == "archive":
        comparison.save(tmp_path / ARCHIVE)
    else:
        shutil.copytree(top, tmp_path, dirs_exist_ok=True)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunError, match=said):
        compare(replace(SETTINGS, **changes), {"tiny": toys.tiny()}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_cells_of_another_version_are_not_mixed_in(comparison: Comparison, tmp_path: Path) -> None:
    name = next(iter(comparison.versions))
    old = replace(comparison, versions=comparison.versions | {name: "0.0.1"})
    old.save(tmp_path / ARCHIVE)
    with pytest.raises(RunError, match=rf"version of {name} = 0\.0\.1"):
        compare(SETTINGS, {"tiny": toys.tiny()}, tmp_path)


def test_interrupted_cell_goes_on_where_it_stopped(comparison: Comparison, tmp_path: Path) -> None:
    """Its ledger cut off in the middle of a row, as a killed process leaves it."""
    cell = SETTINGS.cells()[2]
    bench = Bench(SETTINGS, {"tiny": toys.tiny()}, tmp_path)
    assert run_cell(bench, cell) is None
    folder = cell.folder(tmp_path)
    whole = json.loads((folder / RECORD).read_text())
    (folder / RECORD).unlink()
    ledger = folder / "ledger.log"
    ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size * 2 // 3])
    fresh = Bench(SETTINGS, {"tiny": toys.tiny()}, tmp_path)
    assert run_cell(fresh, cell) is None
    again = json.loads((folder / RECORD).read_text())
    timed = ("seconds", "search_seconds", "evaluation_seconds")
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    expected = next(r for r in comparison.records if Cell(**r["cell"]) == cell)
    assert again["plans"] == expected["plans"]


def test_workers_give_the_same(comparison: Comparison, tmp_path: Path) -> None:
    some = replace(SETTINGS, targets=(0.4,), agents=("random", "evolution"))
    parallel = compare(some, {"tiny": toys.tiny()}, tmp_path, workers=2)
    for record in parallel.records:
        twin = next(r for r in comparison.records if r["cell"] == record["cell"])
        for key in ("plans", "accuracy", "test_accuracy", "test_fraction", "kept", "paid"):
            assert record[key] == twin[key], key


class Fragile:
    """Fails at one seed, each time."""

    name = "fragile"

    def search(self, session: SearchSession, seed: int) -> None:
        session.submit([0.5] * len(session.evaluator.space))
        if seed == 1:
            raise ZeroDivisionError("no such luck")


class Moody(Fragile):
    """Fails the first time only."""

    name = "moody"
    tried: list[int] = []  # noqa: RUF012 - on purpose for all instances

    def search(self, session: SearchSession, seed: int) -> None:
        self.tried.append(seed)
        super().search(session, 0 if self.tried.count(seed) > 1 else 1)


def test_failing_cells_are_retried_reported_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AGENTS, "fragile", Fragile)
    monkeypatch.setitem(AGENTS, "moody", Moody)
    settings = replace(SETTINGS, agents=("fragile", "moody", "random"), targets=(0.5,))
    told: list[tuple[str, str | None]] = []
    found = compare(
        settings,
        {"tiny": toys.tiny()},
        tmp_path,
        on_cell=lambda cell, problem: told.append((str(cell), problem)),
    )
    failed = "fragile on tiny, target 0.5, seed 1"
    assert list(found.failures) == [failed]
    problem = found.failures[failed]
    assert problem.startswith(
        "AgentFailed: agent 'fragile' failed after 1 evaluation: ZeroDivisionError: no such luck ("
    )
    assert len(found.records) == 5
    assert sorted(Moody.tried) == [0, 0, 1, 1]
    assert sorted(told)[1] == (failed, problem)
    assert len(told) == 6
    write_report(found, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "1 of 6 cells have no result, 1 of them because they failed" in report
    assert "no such luck" in report


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"agents": ("random", "randon")}, AgentError, "unknown agent 'randon'"),
        ({"agents": ()}, AgentError, "at least one of its agents"),
        ({"agents": ("random", "random")}, AgentError, "each may stand there once"),
        ({"targets": (0.4, 1.5)}, TargetError, r"target is 1\.5"),
        ({"seeds": 0}, AgentError, "seeds is 0"),
        ({"hidden_features": ("x",)}, ObservationError, "unknown observation feature 'x'"),
        ({"plans": PlanSettings(max_ratio=2.0)}, PlanError, "max_ratio is 2"),
        ({"plans": PlanSettings(criterion="l3")}, CriterionError, "unknown criterion 'l3'"),
        ({"goal": Goal(reward="tarr", lre="none")}, RewardError, "unknown reward 'tarr'"),
    ],
)
def test_bad_input_before_any_cell(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        compare(replace(SETTINGS, **changes), {"tiny": toys.tiny()}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# The archive and the report.


def test_report_is_made_from_the_archive_alone(
    comparison: Comparison, top: Path, tmp_path: Path
) -> None:
    comparison.save(tmp_path / ARCHIVE)
    loaded = Comparison.load(tmp_path / ARCHIVE)
    assert loaded == comparison
    first, second = (write_report(c, tmp_path / n) for c, n in ((comparison, "a"), (loaded, "b")))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    names = {path.name for path in first}
    assert {"report.html", "report.md", "cells.csv", "curves.png"} <= names
    assert not any(name.endswith(".svg") for name in names)


def test_pictures_are_svg_on_demand(comparison: Comparison, tmp_path: Path) -> None:
    page = page_of(replace(comparison, records=comparison.records[:1]))
    some = replace(page, sections=[s for s in page.sections if s.pictures][:1])
    assert {path.suffix for path in write_page(some, tmp_path)} == {".png", ".md", ".html"}
    names = {path.name for path in write_page(some, tmp_path, svg=True)}
    assert {"endpoints.png", "endpoints.svg", "report.md"} < names


def test_page_says_what_a_reader_must_know(comparison: Comparison, tmp_path: Path) -> None:
    write_report(comparison, tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "Only 2 seeds per cell" in text
        assert "corrected for 2 contrasts, on" not in text, "so few seeds rank nobody"
        assert "All runs count, over target or not" in text
        assert "not ours and not comparable" in text
        for agent in SETTINGS.agents:
            assert agent in text
    html = (tmp_path / "report.html").read_text()
    assert "http" not in html.replace("http-equiv", ""), "it needs nothing from elsewhere"
    assert "<script" not in html
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert len(lines) == 1 + len(comparison.records)


def test_endpoint_is_drawn_by_data_set_and_target(comparison: Comparison) -> None:
    """Every agent has a mark for all its runs; one that never kept the target has no other."""
    silent = SETTINGS.agents[0]
    records = tuple(
        record | {"kept": record["cell"]["agent"] != silent} for record in comparison.records
    )
    found = replace(comparison, records=records)
    (picture,) = page_of(found).sections[0].pictures
    analysis = Analysis(found)
    axes = [ax for ax in picture.figure.axes if ax.get_visible()]
    targets = sorted(SETTINGS.targets, reverse=True)
    assert [ax.get_title() for ax in axes] == [f"tiny, target {target:g}" for target in targets]
    for ax, target in zip(axes, targets, strict=True):
        assert [text.get_text() for text in ax.get_yticklabels()] == analysis.agents
        drawn = [(span.get_xdata(), mark) for span, mark in zip(*[iter(ax.lines)] * 2, strict=True)]
        expected = []
        for row, agent in enumerate(analysis.agents):
            figures = analysis.figures(agent, [("tiny", target)])
            assert figures is not None
            assert (figures.kept_accuracy is None) == (agent == silent)
            readings = (figures.accuracy, figures.at_target, figures.kept_accuracy)
            expected += [(row, interval) for interval in readings if interval is not None]
        assert len(drawn) == len(expected)
        for (ends, mark), (row, interval) in zip(drawn, expected, strict=True):
            assert list(ends) == [interval.low, interval.high]
            assert mark.get_xdata()[0] == interval.point
            assert abs(mark.get_ydata()[0] - row) < 0.3


def test_page_on_paper_and_on_a_phone() -> None:
    """Wide tables are set small, words may wrap, and an interval stays on one line."""
    wide = Table(("agent", *"abcdefgh"), [("random", "0.5 [0.4, 0.6]", *"bcdefgh")])
    words = Table(("setting", "value"), [("networks", "one, another")], prose=True)
    text = html(Page("A page", [Section("Tables", tables=[wide, words])]), {})
    assert '<table class="wide">' in text
    assert "0.5 [0.4,\N{NO-BREAK SPACE}0.6]" in text
    assert '<table class="prose">' in text
    assert "one, another" in text


def test_enough_seeds_are_not_warned_about(comparison: Comparison) -> None:
    asked = replace(SETTINGS, seeds=5, agents=("random",), targets=(0.5,))
    records = tuple(
        record | {"cell": record["cell"] | {"seed": seed}}
        for seed in range(5)
        for record in comparison.records[:1]
    )
    page = page_of(replace(comparison, settings=asked, records=records))
    assert page.sections[0].warning == ""


def pairs(record: dict[str, Any]) -> list[tuple[float, float]]:
    """Accuracy and predicted fraction of every plan."""
    return list(zip(record["accuracy"], record["predicted_fraction"], strict=True))


def test_figures_by_hand(comparison: Comparison) -> None:
    analysis = Analysis(comparison)
    task = ("tiny", 0.4)
    records = [
        r
        for r in comparison.records
        if r["cell"]["agent"] == "random" and r["cell"]["target"] == 0.4
    ]
    figures = analysis.figures("random", [task])
    assert figures is not None
    assert figures.runs == len(records) == 2
    assert figures.accuracy.point == pytest.approx(np.mean([r["test_accuracy"] for r in records]))
    assert figures.violations.point == sum(r["test_fraction"] > 0.4 for r in records) / 2
    rewards = [max(q - 5 * max(0, p / 0.4 - 1) for q, p in pairs(r)) for r in records]
    assert figures.reward.point == pytest.approx(np.mean(rewards))
    scores = [max((q for q, p in pairs(r) if p <= 0.4), default=0) for r in records]
    assert figures.score.point == pytest.approx(np.mean(scores))
    assert figures.distance == pytest.approx(
        np.median([abs(r["test_fraction"] - 0.4) for r in records])
    )
    assert figures.load == pytest.approx(np.mean([r["test_fraction"] / 0.4 for r in records]))
    assert figures.kept == sum(r["kept"] for r in records)
    assert figures.plans == len({tuple(r["plan"]) for r in records})
    everyone = [r for r in comparison.records if r["cell"]["target"] == 0.4]
    best = max((q for r in everyone for q, p in pairs(r) if p <= 0.4))
    assert analysis.best_known[task] == best
    reached = [anytime(r).evaluations_to_reach(0.95 * best) for r in records]
    assert figures.reached[0] == (sum(np.isfinite(reached)) / 2, np.median(reached))


def test_contrasts_by_hand(comparison: Comparison) -> None:
    """Networks of one data set stand together; what cannot be told is missing, not a number."""
    twins = tuple(
        record | {"cell": record["cell"] | {"workload": name}, "kept": True}
        for name in ("tiny", "twin", "other")
        for record in comparison.records
    )
    prints = {
        name: comparison.fingerprints["tiny"] | {"data": data}
        for name, data in (("tiny", "A"), ("twin", "A"), ("other", "B"))
    }
    three = replace(
        comparison,
        settings=replace(SETTINGS, workloads=("tiny", "twin", "other")),
        records=twins,
        fingerprints=prints,
    )
    analysis = Analysis(three)
    sets = analysis.data_sets()
    assert {name: {task[0] for task in tasks} for name, tasks in sets.items()} == {
        "tiny": {"tiny", "twin"},
        "other": {"other"},
    }
    one, other = (
        np.mean(
            [
                np.mean([r["test_accuracy"] for r in analysis.of(agent, [task])])
                for task in analysis.tasks
            ]
        )
        for agent in ("random", "uniform")
    )
    found, against_evolution = contrasts(analysis, "random")
    assert (found.other, against_evolution.other) == ("uniform", "evolution")
    assert found.accuracy.interval.point == pytest.approx(one - other)
    assert found.kept == found.accuracy.interval
    assert found.accuracy.networks is not None
    assert found.accuracy.networks.point == pytest.approx(one - other)
    assert contrasts(analysis, "random", sets["other"])[0].accuracy.networks is None
    broken = replace(three, records=tuple(r | {"kept": False} for r in twins))
    assert contrasts(Analysis(broken), "random")[0].kept is None
    titles = [section.title for section in page_of(three).sections]
    assert "random against the others" in titles
    assert "On tiny" in titles
    assert "On other" in titles


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"{}", None])
def test_damaged_archives(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ARCHIVE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="cannot read the comparison"):
        Comparison.load(path)
    import gzip

    path.write_bytes(gzip.compress(b'{"format": "something"}'))
    with pytest.raises(RunError, match="its format is not"):
        Comparison.load(path)
