"""The committed ablation: its archive gives the report, the page and an independent recount."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import recount
from numpy.typing import NDArray
from scipy.stats import spearmanr

from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.contrasts import Contrast, contrasts
from spear_gym.agents.compare.records import over_predicted
from spear_gym.agents.compare.report import write_report
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.statistics import Interval
from spear_gym.cli.search import DEFAULT_AGENT
from spear_gym.report.page import table_markdown

ROOT = Path(__file__).parents[3]
ABLATION = ROOT / "notebooks" / "results" / "ablation"
PAGE = (ROOT / "docs" / "results" / "ablation.md").read_text(encoding="utf-8")
SECTION = PAGE.split("<!-- ablation -->")[1].split("<!-- end ablation -->")[0]
SAID = " ".join(SECTION.replace("*", "").split())


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison.load(ABLATION / "data" / ARCHIVE)


@pytest.fixture(scope="module")
def analysis(comparison: Comparison) -> Analysis:
    return Analysis(comparison)


@pytest.fixture(scope="module")
def ours(analysis: Analysis) -> dict[str, Contrast]:
    return {found.other: found for found in contrasts(analysis, recount.OURS)}


@pytest.mark.slow
def test_the_archive_gives_the_report(comparison: Comparison, tmp_path: Path) -> None:
    write_report(comparison, tmp_path)
    for name in ("report.md", "cells.csv"):
        assert (tmp_path / name).read_bytes() == (ABLATION / name).read_bytes(), name
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {path.name for path in (ABLATION / "figures").glob("*.png")}


def test_every_cell_is_there(comparison: Comparison) -> None:
    assert len(comparison.records) == len(comparison.settings.cells()) == 4 * 13 * 2 * 10
    assert not comparison.failures


# The recount: read from cells.csv by tests/recount.py, which shares no code with the package.

EXPECTED = {
    "evolution": (0.0, 1.1), "tpe": (-1.5, -0.5), "cma-es": (-2.2, -1.2), "random": (0.4, 0.7),
    "ppo": (2.2, 1.6), "gp": (0.9, 0.7), "ddpg": (7.7, 5.3),
}  # fmt: skip
"""``spear-ddpg`` minus each, points: all runs, and at SynOps = target."""


@pytest.fixture(scope="module")
def tables() -> dict[str, recount.Table]:
    accuracy, log, kept = recount.read(ABLATION / "cells.csv")
    return {
        "all": accuracy,
        "at target": recount.moved_to_target(accuracy, log),
        "kept": recount.kept_only(accuracy, kept),
    }


@pytest.mark.parametrize("other", recount.OTHERS)
def test_recount_gives_what_was_expected(tables: dict[str, recount.Table], other: str) -> None:
    found = (recount.difference(tables[name], other) for name in ("all", "at target"))
    assert tuple(round(100 * value, 1) + 0.0 for value in found) == EXPECTED[other]


@pytest.mark.parametrize("other", recount.OTHERS)
def test_recount_gives_the_reports_numbers(
    tables: dict[str, recount.Table], ours: dict[str, Contrast], other: str
) -> None:
    found = ours[other]
    assert found.at_target is not None
    assert found.kept is not None
    for table, difference in (("all", found.accuracy), ("at target", found.at_target)):
        exact = recount.difference(tables[table], other)
        assert difference.interval.point == pytest.approx(exact, abs=1e-12)
        assert difference.p == pytest.approx(recount.p_value(tables[table], other), abs=0.02)
        assert difference.networks is not None
        ends = (difference.networks.low, difference.networks.high)
        assert ends == pytest.approx(recount.over_networks(tables[table], other), abs=1e-6)
    ends = (found.accuracy.interval.low, found.accuracy.interval.high)
    assert ends == pytest.approx(recount.interval(tables["all"], other), abs=0.0015)
    assert found.kept.point == pytest.approx(recount.difference(tables["kept"], other), abs=1e-12)
    (row,) = re.findall(rf"^\| {other} \|.*$", section(f"{recount.OURS} against the others"), re.M)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2].split()[0] == f"{recount.difference(tables['all'], other):+.3f}"
    assert cells[6].split()[0] == f"{recount.difference(tables['at target'], other):+.3f}"


def test_recount_of_every_agents_mean(analysis: Analysis, tables: dict[str, recount.Table]) -> None:
    tasks = recount.tasks_of(tables["all"])
    for agent in analysis.agents:
        figures = analysis.figures(agent)
        assert figures is not None
        for table, found in (
            ("all", figures.accuracy),
            ("at target", figures.at_target),
            ("kept", figures.kept_accuracy),
        ):
            runs = [tables[table][agent, *task] for task in tasks]
            if all(map(len, runs)):
                assert found is not None
                assert found.point == pytest.approx(np.mean([r.mean() for r in runs]), abs=1e-12)
            else:
                assert found is None, "a task without a kept run leaves no figure"


def test_pooling_had_put_spear_ddpg_behind_evolution(
    tables: dict[str, recount.Table], ours: dict[str, Contrast]
) -> None:
    """The statistic of reports before 2026-11-27, and what the same runs give task by task."""
    kept = tables["kept"]
    shares = {
        "all": kept,
        "clutter": {key: runs for key, runs in kept.items() if key[1] != "digits-events"},
        "events": {key: runs for key, runs in kept.items() if key[1] == "digits-events"},
    }
    pooled = {
        name: recount.pooled_interquartile_mean(table, recount.OURS)
        - recount.pooled_interquartile_mean(table, "evolution")
        for name, table in shares.items()
    }
    by_task = {name: recount.difference(table, "evolution") for name, table in shares.items()}
    before, now = (
        {name: f"{100 * value:.1f}" for name, value in found.items()} for found in (pooled, by_task)
    )
    assert before == {"all": "-1.6", "clutter": "-1.7", "events": "5.9"}
    assert now == {"all": "-0.2", "clutter": "-2.2", "events": "5.6"}
    assert "is -1.7 points (-3.2 to -0.7) on `cluttered-digits`" in SAID
    assert "5.9 (4.2 to 7.4) on `digits-events`; and -1.6 (-2.8 to -0.3) over all" in SAID
    assert "the same kept runs give -2.2, 5.6 and -0.2" in SAID
    interval = ours["evolution"].accuracy.interval
    assert interval.low < 0 < interval.high


def section(title: str) -> str:
    """A section of the committed report."""
    report = (ABLATION / "report.md").read_text(encoding="utf-8")
    return report.split(f"\n## {title}\n")[1].split("\n## ")[0]


# The page.


@pytest.fixture(scope="module")
def script(analysis: Analysis, ours: dict[str, Contrast]) -> ModuleType:
    """The program that makes the page's tables; what the archive gives is not worked out twice."""
    spec = spec_from_file_location("ablation_tables", ABLATION / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.analysis = lambda: analysis
    control = {c.other: c for c in contrasts(analysis, module.CONTROL)}
    module.against = {module.OURS: ours, module.CONTROL: control}.__getitem__
    return module


def test_page_shows_the_tables(script: ModuleType) -> None:
    for name, table in script.tables().items():
        shown = PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
        assert shown == table_markdown(table), name


def test_page_tells_contrasts(script: ModuleType, ours: dict[str, Contrast]) -> None:
    def told(found: Interval, sign: int = 1) -> tuple[str, str]:
        point, rest = script.points(found, sign).split(" ", 1)
        return point, rest

    evolution = ours["evolution"]
    assert evolution.at_target is not None
    assert evolution.accuracy.networks is not None
    every, level = told(evolution.accuracy.interval), told(evolution.at_target.interval)
    assert (
        f"{every[0]} points of test accuracy over all eight tasks and all runs {every[1]}, "
        f"{level[0]} {level[1]} read at equal SynOps"
    ) in SAID
    networks = told(evolution.accuracy.networks)[1].strip("()")
    assert f"the interval is {networks}." in SAID
    control = script.against("random")
    for agent, form in {
        "cma-es": "`cma-es` is {} points {}",
        "tpe": "and `tpe` {} {} above `random`",
        "spear-ddpg": "`spear-ddpg` is {} {} and",
    }.items():
        assert form.format(*told(control[agent].accuracy.interval, -1)) in SAID
    level = [control[a].at_target for a in ("cma-es", "tpe", "spear-ddpg")]
    moved = [told(d.interval, -1) for d in level if d is not None]
    assert "at equal SynOps {} {} and {} {}".format(*moved[0], *moved[1]) in SAID
    assert "and {} {} above it".format(*moved[2]) in SAID
    p_values = [d.corrected for d in level[:2] if d is not None]
    assert "remains (p {:.3f} and {:.3f})".format(*p_values) in SAID
    units = [control[a].accuracy.networks for a in ("cma-es", "tpe")]
    ends = [told(found, -1)[1].strip("()") for found in units if found is not None]
    assert "intervals of {} and {}.".format(*ends) in SAID
    ppo = ours["ppo"]
    assert ppo.at_target is not None
    assert f"above `ppo` (p {ppo.accuracy.corrected:.3f})" in SAID
    assert f"at equal SynOps (p {ppo.at_target.corrected:.3f})" in SAID
    for agent in ("cma-es", "tpe"):
        point, rest = told(ours[agent].accuracy.interval)
        assert f"`{agent}` ({point}, {rest.strip('()')})" in SAID


def test_page_tells_chances(analysis: Analysis) -> None:
    lost = []
    for agent, form in {
        "cma-es": "`cma-es` beats one of `random` with probability {}",
        "tpe": "`tpe` with {}",
        "spear-ddpg": "`spear-ddpg` with {}",
    }.items():
        chance = analysis.improvement(agent, "random")
        assert chance is not None
        told = f"{chance.point:.2f} ({chance.low:.2f} to {chance.high:.2f})"
        assert form.format(told) in SAID
        counted = analysis.improvement(agent, "random", lost=True)
        assert counted is not None
        lost.append(f"{counted.point:.2f}")
    assert "these are {}, {} and {}, and no interval lies above one half".format(*lost) in SAID
    for agent in analysis.agents:
        found = analysis.improvement(agent, "random", lost=True) if agent != "random" else None
        assert found is None or found.low <= 0.5


def test_page_tells_what_decides_that_a_target_is_kept(analysis: Analysis) -> None:
    over = [record for record in analysis.records if not record["kept"]]
    assert f"{len(over)} of all {len(analysis.records):,}" in SAID
    medians = []
    for agent in analysis.agents[:8]:
        figures = analysis.figures(agent)
        assert figures is not None
        assert figures.overshoot is not None
        medians.append(figures.overshoot.median)
    assert round(min(medians), 2) >= 0.03
    assert round(max(medians), 2) <= 0.05
    assert "the median is 3 to 5 % of the target for the searching agents" in SAID
    spread = []
    for rule in ("uniform", "global-l1", "sca"):
        for task in analysis.tasks:
            records = analysis.of(rule, [task])
            assert len({tuple(r["plan"]) for r in records}) == 1
            loads = [r["test_fraction"] / task[1] for r in records]
            accuracies = [r["test_accuracy"] for r in records]
            spread.append((np.std(loads, ddof=1), np.std(accuracies, ddof=1)))
    loads, accuracies = np.mean(spread, axis=0)
    assert (
        f"spread by {loads:.1%} of the target in SynOps and by {100 * accuracies:.1f} points"
    ).replace("%", " %") in SAID


def shares_of_variance(values: NDArray[np.float64]) -> tuple[float, float]:
    """Shares of the task, and of the agent with its interaction; values (tasks, agents, seeds)."""
    between = values.mean(axis=2)
    whole = values.var()
    task = between.mean(axis=1).var() / whole
    return task, between.var() / whole - task


def test_page_tells_who_decides_measured_over_predicted(
    analysis: Analysis, script: ModuleType
) -> None:
    def ratios(agents: Sequence[str]) -> NDArray[np.float64]:
        return np.array(
            [
                [[over_predicted(r) for r in analysis.of(agent, [task])] for agent in agents]
                for task in analysis.tasks
            ]
        )

    task, agent = shares_of_variance(ratios(script.SEARCHING))
    assert f"the task explains {100 * task:.0f} % of that ratio's variance" in SAID
    assert f"who searched, alone and by task, {100 * agent:.0f} %" in SAID
    task, agent = shares_of_variance(ratios(analysis.agents))
    assert f"with the rules and `gates` {100 * task:.0f} and {100 * agent:.0f} %" in SAID
    sca = ratios(["sca"])[analysis.tasks.index(("digits-events", 0.15))].mean() - 1
    assert f"`sca` comes out {100 * sca:.0f} % above" in SAID


def test_page_tells_how_score_and_accuracy_correlate(
    analysis: Analysis, script: ModuleType
) -> None:
    def ends(agents: Sequence[str]) -> str:
        found = []
        for task in analysis.tasks:
            records = [r for agent in agents for r in analysis.of(agent, [task])]
            accuracies = [r["test_accuracy"] for r in records]
            found.append(spearmanr([script.score_of(r) for r in records], accuracies).statistic)
        return f"{min(found):.2f} to {max(found):.2f}"

    assert f"correlate by {ends(script.SEARCHING)} among the 80 runs" in SAID
    assert f"by {ends(('tpe', 'gp', 'cma-es', 'evolution'))} among the 40 of `tpe`" in SAID


def test_readme_tells_contrasts(script: ModuleType) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    ours, tpe = (script.against("random")[agent] for agent in (recount.OURS, "tpe"))
    assert script.points(ours.accuracy.interval, -1).split(" ", 1)[1] in readme
    assert script.points(tpe.accuracy.interval, -1).split(" ", 1)[1] in readme
    assert tpe.at_target is not None
    level = script.points(tpe.at_target.interval, -1).split()[0]
    assert f"{level} at equal SynOps (not shown after correction)" in readme
    assert ours.accuracy.corrected > 0.05
    assert tpe.at_target.corrected > 0.05


def test_page_tells_of_the_corner_of_digits_events(analysis: Analysis) -> None:
    task = [("digits-events", 0.15)]
    corner = [r for r in analysis.of("evolution", task) if r["plan"][0] == 2]
    others = [r for r in analysis.of("evolution", task) if r["plan"][0] != 2]
    assert len(corner) == 7
    assert "`evolution` ended at such a plan in 7 of 10 runs" in SAID
    learned = analysis.of("spear-ddpg", task)
    assert not [r for r in learned if r["plan"][0] == 2]
    loads = [r["test_fraction"] / 0.15 - 1 for r in others]
    assert f"{min(loads):.1%} to {max(loads):.1%}".replace("%", "", 1).replace("%", " %") in SAID
    for some, ends in ((corner, "0.50 to 0.55"), ([*others, *learned], "0.60 to 0.67")):
        accuracies = [r["test_accuracy"] for r in some]
        assert f"{min(accuracies) + 1e-9:.2f} to {max(accuracies):.2f}" == ends
        assert ends in SAID


def test_page_tells_how_far_the_last_are(analysis: Analysis) -> None:
    found = {agent: analysis.figures(agent) for agent in analysis.agents}
    means = {agent: f.accuracy.point for agent, f in found.items() if f is not None}
    below = 100 * (means["uniform"] - means["sca"])
    assert f"`sca` is the last, {below:.1f} points below `uniform`" in SAID
    below = 100 * (means["uniform"] - means["network-slimming"])
    assert f"`network-slimming` ends {below:.1f} points below `uniform`" in SAID


def test_default_agent_is_the_one_of_the_protocols_rule(analysis: Analysis) -> None:
    """By the mean of the tasks' means, in every reading."""
    figures = {agent: analysis.figures(agent) for agent in analysis.agents}
    control = figures["random"]
    assert control is not None
    limit = control.violations.point + 0.10
    eligible = [f for f in figures.values() if f is not None and f.violations.point <= limit]
    kept = {f.agent: f.kept_accuracy.point for f in eligible if f.kept_accuracy is not None}
    level = {f.agent: f.at_target.point for f in eligible if f.at_target is not None}
    for means in (kept, {f.agent: f.accuracy.point for f in eligible}, level):
        assert max(means, key=lambda agent: means[agent]) == DEFAULT_AGENT
    first, second = sorted(kept, key=lambda agent: -kept[agent])[:2]
    assert (first, second) == (DEFAULT_AGENT, "evolution")
    assert f"`tpe`, {kept[first]:.3f} to {kept[second]:.3f} for `evolution`" in SAID
    assert "cma-es" not in kept
