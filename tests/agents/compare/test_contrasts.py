"""What is said of two agents, on results that are made up."""

from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from scipy import stats

from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.contrasts import contrasts
from spear_gym.agents.compare.report import page_of, write_report
from spear_gym.agents.compare.tables import contrast_table, endpoint_table, task_table
from spear_gym.report.page import markdown

EASY, HARD = ("net", 0.3), ("net", 0.15)


def runs(*levels: float, load: float = 0.95) -> list[tuple[float, float]]:
    """Ten runs at these levels in turn, with SynOps that hardly differ."""
    return [(levels[n % len(levels)] + n / 1e4, load + (n - 5) / 1e4) for n in range(10)]


def test_order_of_agents_where_pooling_tasks_turns_it_round() -> None:
    """`steady` is better on either task; pooled and trimmed, `lucky` comes first.

    Both are judged on the same two tasks, and still the pooled statistic takes the good half of
    the hard task and the bad half of the easy one, which only `lucky` profits from.
    """
    results = {
        "steady": {EASY: runs(0.90), HARD: runs(0.61)},
        "lucky": {EASY: runs(0.85), HARD: runs(0.45, 0.70)},
    }
    analysis = Analysis(made_up.comparison(results))
    (found,) = contrasts(analysis, "steady")
    assert found.accuracy.interval.point == pytest.approx(0.0425, abs=1e-3)
    assert found.accuracy.interval.low > 0
    pooled = [
        stats.trim_mean([r["test_accuracy"] for r in analysis.of(agent)], 0.25) for agent in results
    ]
    assert pooled[0] < pooled[1] - 0.01, "the statistic of reports before 2026-11-27"
    summary = markdown(page_of(made_up.comparison(results)))
    assert summary.index("steady 0.7") < summary.index("lucky 0.7")


def test_kept_runs_stand_on_all_tasks_or_not_at_all() -> None:
    """`reckless` keeps the easy target only, on which everybody is accurate."""
    results = {
        "careful": {EASY: runs(0.85), HARD: runs(0.60)},
        "reckless": {EASY: runs(0.84), HARD: runs(0.62, load=1.1)},
        "barely": {EASY: runs(0.84), HARD: [*runs(0.62, load=1.1)[:9], (0.62, 1.0)]},
    }
    comparison = made_up.comparison(results)
    analysis = Analysis(comparison)
    of_easy = np.mean([r["test_accuracy"] for r in analysis.of("reckless") if r["kept"]])
    careful = analysis.figures("careful")
    reckless, barely = analysis.figures("reckless"), analysis.figures("barely")
    assert careful is not None
    assert reckless is not None
    assert barely is not None
    assert of_easy > careful.accuracy.point + 0.1, "what pooling would have credited it with"
    assert (reckless.kept_accuracy, reckless.kept, reckless.fewest_kept) == (None, 10, 0)
    assert reckless.accuracy.point == pytest.approx(0.73, abs=1e-3)
    assert barely.kept_accuracy is not None
    assert str(barely.kept_accuracy) == "0.730 [–]"
    found = {c.other: c for c in contrasts(analysis, "careful")}
    assert found["reckless"].kept is None
    assert found["barely"].kept is not None
    table = endpoint_table(analysis, analysis.tasks)
    assert "none kept on 1 task" in table.rows[1]
    assert "10 (0)" in table.rows[1]
    assert "11 (1)" in table.rows[2]


def test_figures_stand_on_all_tasks_or_not_at_all() -> None:
    results = {
        "whole": {EASY: runs(0.85), HARD: runs(0.60)},
        "easy only": {EASY: runs(0.84)},
        "other": {EASY: runs(0.83), HARD: runs(0.59)},
    }
    comparison = made_up.comparison(results)
    analysis = Analysis(comparison)
    assert analysis.figures("easy only") is None
    assert analysis.figures("easy only", [EASY]) is not None
    assert analysis.improvement("whole", "easy only") is None
    assert [c.other for c in contrasts(analysis, "whole")] == ["other"]
    assert contrasts(analysis, "easy only") == []
    assert len(contrasts(analysis, "easy only", [EASY])) == 2
    text = markdown(page_of(comparison))
    assert "none of their runs finished: easy only." in text
    assert "| easy only | no run on 1 of 2 tasks | – |" in text
    assert "## easy only against the others" not in text


def test_equal_synops_undo_what_more_synops_gave() -> None:
    """Both follow one curve of accuracy on SynOps, `full` goes further along it."""
    rng = np.random.default_rng(0)

    def on_the_curve(load: float) -> list[tuple[float, float]]:
        loads = load + rng.uniform(-0.1, 0.1, 10)
        return [(0.7 + 0.2 * float(np.log(x)), float(x)) for x in loads]

    results = {
        agent: {task: on_the_curve(load) for task in (EASY, HARD)}
        for agent, load in (("frugal", 0.7), ("full", 0.95))
    }
    analysis = Analysis(made_up.comparison(results))
    (found,) = contrasts(analysis, "frugal")
    assert found.accuracy.interval.high < -0.04
    assert found.accuracy.p < 0.001
    assert found.at_target is not None
    assert found.at_target.interval.point == pytest.approx(0.0, abs=1e-9)
    assert found.at_target.networks is None, "one network cannot speak of others"
    figures = analysis.figures("frugal")
    assert figures is not None
    assert figures.at_target is not None
    assert figures.at_target.point == pytest.approx(0.7)
    assert figures.load == pytest.approx(0.7, abs=0.05)
    rows = task_table(analysis).rows
    assert [row[-1] for row in rows] == ["0.20", "0.20"]


def test_few_runs_are_not_read_at_equal_synops() -> None:
    few = {a: {t: runs(0.8)[:4] for t in (EASY, HARD)} for a in ("one", "another")}
    analysis = Analysis(made_up.comparison(few, seeds=4))
    (found,) = contrasts(analysis, "one")
    assert found.at_target is None
    assert contrast_table([found], analysis.tasks).rows[0][5:9] == ("–",) * 4
    figures = analysis.figures("one")
    assert figures is not None
    assert figures.at_target is None
    assert "| – |" in markdown(page_of(made_up.comparison(few, seeds=4)))


def test_contrasts_are_corrected_for_their_number() -> None:
    rng = np.random.default_rng(1)

    def around(level: float) -> list[tuple[float, float]]:
        return [(float(a), 0.9 + float(a) / 99) for a in rng.normal(level, 0.02, 10)]

    results = {
        f"agent {n}": {task: around(0.7 + n / 99) for task in (EASY, HARD)} for n in range(5)
    }
    found = contrasts(Analysis(made_up.comparison(results)), "agent 0")
    ordered = sorted((c.accuracy.p, c.accuracy.corrected) for c in found)
    expected, largest = [], 0.0
    for rank, (p, _) in enumerate(ordered):
        largest = max(largest, min(1.0, (4 - rank) * p))
        expected.append(largest)
    assert [corrected for _, corrected in ordered] == pytest.approx(expected)
    alone = contrasts(Analysis(made_up.comparison(results)), "agent 0", others=["agent 1"])
    assert alone[0].accuracy.p == alone[0].accuracy.corrected


def test_overshoot_by_hand() -> None:
    loads = [0.9, 1.01, 1.0189, 1.051, 1.3, 0.8, 1.0]
    comparison = made_up.comparison({"only": {EASY: [(0.8, load) for load in loads]}}, seeds=7)
    figures = Analysis(comparison).figures("only")
    assert figures is not None
    over = figures.overshoot
    assert over is not None
    assert (over.runs, over.near) == (4, 2)
    assert over.median == pytest.approx(0.03495)
    assert over.ninety == pytest.approx(0.2253)  # 0.051 + 0.7 * 0.249
    assert over.largest == pytest.approx(0.3)
    assert figures.violations.point == 4 / 7
    row = endpoint_table(Analysis(comparison), [EASY]).rows[0]
    assert "3.5%, 22.5%, 30.0%" in row
    assert "2 of 4" in row


def test_chance_with_and_without_broken_targets() -> None:
    """`over` is always the more accurate one, and always over target."""
    results = {
        "under": {EASY: runs(0.80), HARD: runs(0.60)},
        "over": {EASY: runs(0.85, load=1.1), HARD: runs(0.65, load=1.1)},
    }
    analysis = Analysis(made_up.comparison(results))
    alone, lost = (analysis.improvement("over", "under", lost=at) for at in (False, True))
    assert alone is not None
    assert lost is not None
    assert (alone.point, lost.point) == (1.0, 0.0)


def test_profiles_are_normalised_within_each_task() -> None:
    results = {
        "low": {EASY: [(0.8, 0.9)] * 2, HARD: [(0.3, 1.1)] * 2},
        "high": {EASY: [(0.9, 0.9)] * 2, HARD: [(0.7, 0.9), (0.5, 0.9)]},
    }
    analysis = Analysis(made_up.comparison(results, seeds=2))
    hard, easy = analysis.profile("high")
    assert hard.tolist() == pytest.approx([1.0, 0.5])
    assert easy.tolist() == [1.0, 1.0]
    assert [task.tolist() for task in analysis.profile("low")] == [[0.0, 0.0], [0.0, 0.0]]
    assert analysis.profile("low", lost=True)[0].tolist() == [-1.0, -1.0]


def test_one_run_of_one_agent_gives_a_report(tmp_path: Path) -> None:
    comparison = made_up.comparison({"only": {EASY: [(0.8, 0.9)]}}, seeds=1)
    write_report(comparison, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "0.800 [–]" in text
    assert "against the others" not in text
