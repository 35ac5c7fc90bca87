"""The committed ablation: its archive gives the committed report, and the README's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.report import write_report
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.statistics import Interval
from spear_gym.cli.search import DEFAULT_AGENT

ROOT = Path(__file__).parents[3]
ABLATION = ROOT / "notebooks" / "results" / "ablation"
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison.load(ABLATION / ARCHIVE)


@pytest.fixture(scope="module")
def analysis(comparison: Comparison) -> Analysis:
    return Analysis(comparison)


@pytest.mark.slow
def test_the_archive_gives_the_report(comparison: Comparison, tmp_path: Path) -> None:
    write_report(comparison, tmp_path)
    for name in ("report.md", "cells.csv"):
        assert (tmp_path / name).read_bytes() == (ABLATION / name).read_bytes(), name
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {path.name for path in (ABLATION / "figures").iterdir()}


def test_every_cell_is_there(comparison: Comparison) -> None:
    assert len(comparison.records) == len(comparison.settings.cells()) == 4 * 13 * 2 * 10
    assert not comparison.failures


def test_readme_shows_the_primary_endpoint(analysis: Analysis) -> None:
    for agent in analysis.agents:
        cells = [f"`{agent}`"]
        for tasks in analysis.data_sets().values():
            records = analysis.of(agent, tasks)
            kept = analysis.kept_accuracy(agent, tasks)
            cells.append("–" if kept is None else in_words(kept, 1, "{:.3f}"))
            over = sum(not record["kept"] for record in records) / len(records)
            cells.append(f"{100 * over:.0f} %")
        assert f"| {' | '.join(cells)} |" in README


def test_readme_claims_what_the_archive_supports(analysis: Analysis) -> None:
    text = " ".join(README.replace("*", "").replace(" points", "").split())
    for tasks in analysis.data_sets().values():
        for drawn in (False, True):
            found = analysis.contrast("spear-ddpg", "evolution", tasks, draw_networks=drawn)
            assert found is None or in_words(found, 100, "{:.1f}") in text
    for other in ("random", "cma-es", "tpe", "ddpg"):
        found = analysis.contrast("spear-ddpg", other, analysis.tasks)
        assert found is not None
        low, high = f"{100 * found.low:.1f}", f"{100 * found.high:.1f}"
        assert f"{100 * found.point:.1f}, {low} to {high}" in text
    for other in ("evolution", "random", "tpe"):
        chance = analysis.improvement("spear-ddpg", other)
        assert chance is not None
        assert in_words(chance, 1, "{:.2f}") in text


def test_default_agent_is_the_one_of_the_protocols_rule(analysis: Analysis) -> None:
    over = {a: sum(not r["kept"] for r in analysis.of(a)) for a in analysis.agents}
    runs = len(analysis.of("random"))
    eligible = {
        a: analysis.kept_accuracy(a) for a in over if over[a] <= over["random"] + runs // 10
    }
    found = {agent: kept.point for agent, kept in eligible.items() if kept is not None}
    assert max(found, key=lambda agent: found[agent]) == DEFAULT_AGENT


def in_words(interval: Interval, scale: float, form: str) -> str:
    """As the README writes it."""
    point, low, high = (
        form.format(scale * value) for value in (interval.point, interval.low, interval.high)
    )
    return f"{point} ({low} to {high})"
