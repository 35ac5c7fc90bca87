"""The committed ablation: its archive gives the committed report, and an independent recount."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import recount

from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.contrasts import Contrast, contrasts
from spear_gym.agents.compare.report import write_report
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.statistics import Interval

ROOT = Path(__file__).parents[3]
ABLATION = ROOT / "notebooks" / "results" / "ablation"


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
    ddpg, evolution = (
        recount.pooled_interquartile_mean(tables["kept"], agent)
        for agent in (recount.OURS, "evolution")
    )
    assert round(100 * (ddpg - evolution), 1) == -1.6
    found = ours["evolution"]
    assert isinstance(found.kept, Interval)
    assert round(100 * found.kept.point, 1) == -0.2
    assert found.accuracy.interval.low < 0 < found.accuracy.interval.high


def section(title: str) -> str:
    """A section of the committed report."""
    report = (ABLATION / "report.md").read_text(encoding="utf-8")
    return report.split(f"\n## {title}\n")[1].split("\n## ")[0]
