"""The committed ablation: its archive gives the committed report, and the README's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spear_gym.agents.compare.analysis import Analysis, Task
from spear_gym.agents.compare.report import write_report
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.statistics import Interval, interquartile_mean_difference
from spear_gym.cli.search import DEFAULT_AGENT

ROOT = Path(__file__).parents[3]
ABLATION = ROOT / "notebooks" / "results" / "ablation"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("<!-- ablation -->")[1].split("<!-- end ablation -->")[0]
PAIR = ("spear-ddpg", "evolution")


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
        assert f"| {' | '.join(cells)} |" in SECTION


def test_readme_claims_what_the_archive_supports(analysis: Analysis) -> None:
    said = " ".join(SECTION.replace("*", "").split())
    first, second = analysis.data_sets().values()
    main = analysis.contrast("spear-ddpg", "evolution", first)
    others_too = analysis.contrast("spear-ddpg", "evolution", first, draw_networks=True)
    assert (
        f"is {points(main)} on `cluttered-digits` over other seeds of these three networks, and "
        f"{points(others_too).replace(' points', '')} over other networks"
    ) in said
    assert f"On `digits-events` it is {points(analysis.contrast(*PAIR, second))}" in said
    by_target = [analysis.contrast(*PAIR, [task]) for task in sorted(second)]
    assert by_target[0] is not None
    assert by_target[1] is not None
    assert by_target[0].low > 0  # target 0.15
    assert by_target[1].low < 0 < by_target[1].high
    every = " and ".join(points(over_all_runs(analysis, t)) for t in (first, second))
    assert f"the contrast is {every.replace(' points', '')}" in said


@pytest.mark.parametrize("other", ["random", "evolution", "cma-es", "tpe", "ddpg", "ppo", "gp"])
def test_readme_tells_wins_and_losses(analysis: Analysis, other: str) -> None:
    found = points(analysis.contrast("spear-ddpg", other, analysis.tasks))
    figures = found.replace(" points (", ", ").replace(")", "")
    assert f"`{other}` ({figures}" in " ".join(SECTION.split())


def test_readme_tells_chances(analysis: Analysis) -> None:
    said = " ".join(SECTION.split())
    for ours, other, form in (
        ("tpe", "random", "`tpe` does with probability {}"),
        ("spear-ddpg", "random", "`spear-ddpg` with {}"),
        ("spear-ddpg", "evolution", "`spear-ddpg` beats `evolution` with {}"),
        ("spear-ddpg", "tpe", "and `tpe` with {}"),
    ):
        chance = analysis.improvement(ours, other)
        assert chance is not None
        assert form.format(in_words(chance, 1, "{:.2f}")) in said
    for agent in analysis.agents:
        assert agent == "random" or analysis.improvement(agent, "random").low <= 0.5  # type: ignore[union-attr]


def test_default_agent_is_the_one_of_the_protocols_rule_as_first_written(
    analysis: Analysis,
) -> None:
    over = {a: sum(not r["kept"] for r in analysis.of(a)) for a in analysis.agents}
    runs = len(analysis.of("random"))
    eligible = [agent for agent in over if over[agent] <= over["random"] + runs / 10]
    means = {agent: analysis.kept_accuracy(agent) for agent in eligible}
    alike = {
        agent: stats.trim_mean([r["test_accuracy"] for r in analysis.of(agent) if r["kept"]], 0.25)
        for agent in eligible
        if means[agent] is not None
    }
    assert max(alike, key=lambda agent: alike[agent]) == DEFAULT_AGENT
    reweighed = {agent: mean.point for agent, mean in means.items() if mean is not None}
    first, second = sorted(reweighed, key=lambda agent: -reweighed[agent])[:2]
    said = " ".join(SECTION.split())
    assert (first, second) == ("evolution", DEFAULT_AGENT)
    assert f"{reweighed[first]:.3f} to {reweighed[second]:.3f}" in said


def over_all_runs(analysis: Analysis, tasks: list[Task]) -> Interval:
    """The primary contrast, runs over target too."""
    ours, others = (
        [np.array([r["test_accuracy"] for r in analysis.of(agent, [task])]) for task in tasks]
        for agent in PAIR
    )
    return interquartile_mean_difference(ours, others)


def points(interval: Interval | None) -> str:
    """An interval of shares in points, as the README writes it."""
    assert interval is not None
    return in_words(interval, 100, "{:.1f}").replace(" (", " points (")


def in_words(interval: Interval, scale: float, form: str) -> str:
    """An interval as the README writes it."""
    point, low, high = (
        form.format(scale * value) for value in (interval.point, interval.low, interval.high)
    )
    return f"{point} ({low} to {high})"
