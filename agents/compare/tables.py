"""The tables of a comparison's report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from spear_gym.report.page import Table

from .analysis import LEVELS, NEAR, AgentFigures, Analysis
from .contrasts import Contrast, Difference
from .records import Task, over_predicted
from .statistics import CONFIDENCE, TOO_NARROW, Interval

ABSENT = "–"


def endpoint_table(analysis: Analysis, tasks: Sequence[Task], caption: str = "") -> Table:
    """What the fine-tuned networks of every agent reach."""
    columns = (
        "agent", "runs", "plans", "test accuracy, all runs", "at SynOps = target (post hoc)",
        "test accuracy, kept runs", "kept (fewest on a task)", "over target",
        "over by: median, 90 %, largest", f"of them within {NEAR:.0%}", "SynOps / target",
        "distance from target",
    )  # fmt: skip
    return _by_agent(analysis, tasks, columns, _endpoint_row, caption)


def search_table(analysis: Analysis, tasks: Sequence[Task], caption: str = "") -> Table:
    """What the searches of every agent found before fine-tuning, and how long they took."""
    columns = (
        "agent", "best score", "best reward", "area", *(f"reached {level:.0%}" for level in LEVELS),
        "hypervolume", "seconds a cell", "seconds searching",
    )  # fmt: skip
    return _by_agent(analysis, tasks, columns, _search_row, caption)


def contrast_table(found: Sequence[Contrast], tasks: Sequence[Task]) -> Table:
    """One agent against the others."""
    (ours,) = {contrast.ours for contrast in found}
    networks = len({workload for workload, _ in tasks})
    over = f"over {networks} networks" if networks > 1 else "over networks"
    rows = [
        (c.other, *_difference(c.accuracy), *_difference(c.at_target), _signed(c.kept))
        for c in found
    ]
    unit = (
        f"Over {networks} networks: a t interval in which each network is one observation (the "
        "mean over its targets); it alone speaks of other networks, if these stand for them."
        if networks > 1
        else "One network was tried, so nothing can be said of others."
    )
    return Table(
        (
            f"{ours} minus", "all runs", "p", "p, Holm", over, "at SynOps = target (post hoc)",
            "p", "p, Holm", over, "kept runs",
        ),
        rows,
        "Test accuracy after fine-tuning: mean over tasks of the difference of a task's means, "
        f"with {CONFIDENCE:.0%} bootstrap intervals over seeds, networks fixed. p: two-sided, "
        "labels permuted within tasks; Holm: corrected for the "
        f"{len(found)} contrast{'s' if len(found) > 1 else ''} of this table. "
        f"{unit} {ABSENT}: cannot be computed; [{ABSENT}]: no interval, since a single run counts "
        "on some task.",
    )  # fmt: skip


def improvement_table(analysis: Analysis, *, lost: bool) -> Table:
    """Which of two agents ends the more accurate, for every pair."""
    agents = analysis.agents
    chances: dict[tuple[str, str], Interval] = {}
    for at, ours in enumerate(agents):
        for other in agents[at + 1 :]:
            if (found := analysis.improvement(ours, other, lost=lost)) is not None:
                chances[ours, other] = found
                chances[other, ours] = Interval(1 - found.point, 1 - found.high, 1 - found.low)
    rows = [
        (ours, *(chances[ours, o].text("{:.2f}") if (ours, o) in chances else "" for o in agents))
        for ours in agents
    ]
    said = (
        "a run over target counts as worse than all that keep it, so that the figure mixes "
        "accuracy with the rate of broken targets"
        if lost
        else "on accuracy alone, over target or not"
    )
    return Table(
        ("agent", *agents),
        rows,
        "Probability that a run of the row's agent ends more accurate than one of the column's, "
        f"mean over tasks, ties as one half (rliable's probability of improvement): {said}.",
    )


def task_table(analysis: Analysis) -> Table:
    """What tasks have in common whatever the agent."""
    rows = []
    for task in analysis.tasks:
        records = [r for agent in analysis.agents for r in analysis.of(agent, [task])]
        ratios = np.array([over_predicted(record) for record in records])
        fit = analysis.at_target[task]
        rows.append(
            (
                f"{task[0]}, {task[1]:g}",
                f"{sum(not r['kept'] for r in records)} of {len(records)}",
                f"{ratios.mean():.3f}",
                f"{ratios.std(ddof=1):.3f}" if len(ratios) > 1 else ABSENT,
                ABSENT if fit is None else f"{fit.slope:.2f}",
            )
        )
    return Table(
        (
            "task", "runs over target", "measured / predicted SynOps", "its standard deviation",
            "points of accuracy for 1 % more SynOps",
        ),
        rows,
        "Of all agents' runs. Measured is on test after fine-tuning, predicted by the fit that "
        "plans were judged by. Where the ratio is above 1, whoever uses the whole target is likely "
        "to break it. It depends on the network's fit and on the plans that were chosen. The last "
        "column is the slope along which runs are moved to SynOps = target.",
    )  # fmt: skip


def figures_reading() -> list[str]:
    """How the figures of the tables are to be read."""
    return [
        "Every figure is the mean over tasks of the task's own figure, and stands on all of them: "
        "an agent for which a task is missing has no figure. All runs: every run counts, over "
        "target or not. At SynOps = target: all runs, moved within each task along a common slope "
        "of accuracy on the logarithm of SynOps (analysis of covariance, slope estimated inside "
        "agents) to the target; a model, and post hoc. Kept runs: only those that keep the target "
        "on test, which is conditional on an event that accuracy itself depends on. "
        f"{TOO_NARROW}",
        "Plans: different plans that were fine-tuned, summed over tasks; an agent with as many as "
        "tasks is a rule whose runs are one plan fine-tuned again. Over by: how far the runs over "
        "target are over it, whichever tasks they fell on, so no comparison of agents. Distance: "
        "median of |SynOps - target| as a fraction of the unpruned SynOps.",
        "Score is the accuracy on the search split before fine-tuning; area is the mean height of "
        "the curve of the best score of a plan predicted to keep the target, 0 before there is "
        "one; reached is the share of runs that came within 95 % and 99 % of the best score that "
        "any agent found on the task, and the median evaluations of all runs (∞: half of them "
        "never did).",
    ]


def rate(interval: Interval) -> str:
    """A share with its interval, in percent."""
    return f"{interval.point:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def count(median: float) -> str:
    """A number of evaluations; infinite where it was never enough."""
    return f"{median:.0f}" if math.isfinite(median) else "∞"


def kept_text(f: AgentFigures) -> str:
    """Accuracy of the runs that keep the target, or why there is none."""
    if f.kept_accuracy is not None:
        return str(f.kept_accuracy)
    return f"none kept on {f.never_kept} task{'s' if f.never_kept > 1 else ''}"


def p_text(p: float) -> str:
    """A p value."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _by_agent(
    analysis: Analysis,
    tasks: Sequence[Task],
    columns: Sequence[str],
    row: Callable[[AgentFigures], list[str]],
    caption: str,
) -> Table:
    rows = []
    for agent in analysis.agents:
        figures = analysis.figures(agent, tasks)
        if figures is not None:
            rows.append(row(figures))
        else:
            missing = len(analysis.missing(agent, tasks))
            said = f"no run on {missing} of {len(tasks)} tasks"
            rows.append([agent, said, *[ABSENT] * (len(columns) - 2)])
    return Table(columns, rows, caption)


def _endpoint_row(f: AgentFigures) -> list[str]:
    over = f.overshoot
    return [
        f.agent,
        str(f.runs),
        str(f.plans),
        str(f.accuracy),
        ABSENT if f.at_target is None else str(f.at_target),
        kept_text(f),
        f"{f.kept} ({f.fewest_kept})",
        rate(f.violations),
        ABSENT if over is None else f"{over.median:.1%}, {over.ninety:.1%}, {over.largest:.1%}",
        ABSENT if over is None else f"{over.near} of {over.runs}",
        f"{f.load:.3f}",
        f"{f.distance:.3f}",
    ]


def _search_row(f: AgentFigures) -> list[str]:
    return [
        f.agent,
        str(f.score),
        str(f.reward),
        str(f.area),
        *(f"{share:.0%}, {count(median)}" for share, median in f.reached),
        f"{f.volume:.3f}",
        f"{f.seconds:.0f}",
        f"{f.search_seconds:.0f}",
    ]


def _difference(found: Difference | None) -> tuple[str, str, str, str]:
    if found is None:
        return (ABSENT,) * 4
    p_values = p_text(found.p), p_text(found.corrected)
    return _signed(found.interval), *p_values, _signed(found.networks)


def _signed(interval: Interval | None) -> str:
    return ABSENT if interval is None else interval.text("{:+.3f}")
