"""The tables of docs/results/ablation.md, from `data/`; nothing is simulated.

.venv/bin/python notebooks/results/ablation/tables.py
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from spear_gym.agents.compare.analysis import Analysis
from spear_gym.agents.compare.contrasts import Contrast, Difference, contrasts
from spear_gym.agents.compare.records import Record
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.compare.statistics import Interval
from spear_gym.agents.compare.tables import p_text, task_table
from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
OURS, CONTROL, RIVAL = "spear-ddpg", "random", "evolution"
SEARCHING = ("spear-ddpg", "ddpg", "ppo", "random", "tpe", "gp", "cma-es", "evolution")
"""Agents that choose plans by their scores until the budget is spent."""


@cache
def analysis() -> Analysis:
    """The archive, read."""
    return Analysis(Comparison.load(DATA / ARCHIVE))


@cache
def against(agent: str) -> dict[str, Contrast]:
    """An agent minus every other, over all tasks."""
    return {found.other: found for found in contrasts(analysis(), agent)}


def agents() -> Table:
    """Every agent over all eight tasks."""
    rows = []
    for agent in analysis().agents:
        f = analysis().figures(agent)
        assert f is not None
        assert f.at_target is not None
        over = f.overshoot
        assert over is not None
        kept = f.kept_accuracy
        rows.append(
            (
                f"`{agent}`",
                words(f.accuracy),
                words(f.at_target),
                f"none kept on {f.never_kept} of 8 tasks" if kept is None else words(kept),
                f"{f.kept} of {f.runs}",
                f"{over.median:.1%}, {over.ninety:.1%}, {over.largest:.1%}",
                f"{over.near} of {over.runs}",
                f"{f.load:.2f}",
                f"{f.search_seconds:.0f} s",
            )
        )
    heads = (
        "agent", "all runs", "at SynOps = target, post hoc", "kept runs", "kept",
        "over by: median, 90 %, largest", "of them within 2 %", "SynOps / target", "a search",
    )  # fmt: skip
    return Table(heads, rows)


def primary() -> Table:
    """The contrast of the protocol, in three readings, by data set and task."""
    whole = analysis()
    groups = {"all eight tasks": whole.tasks} | {
        f"`{name}`" + (", three networks" if len(tasks) > 2 else ""): tasks
        for name, tasks in whole.data_sets().items()
    }
    groups |= {f"`{task[0]}` {task[1]:g}": [task] for task in whole.tasks}
    rows = []
    for name, tasks in groups.items():
        (found,) = contrasts(whole, OURS, tasks, [RIVAL])
        assert found.at_target is not None
        kept = [sum(bool(r["kept"]) for r in whole.of(a, tasks)) for a in (OURS, RIVAL)]
        runs = len(whole.of(OURS, tasks))
        rows.append(
            (
                name,
                points(found.accuracy.interval),
                p_text(found.accuracy.p),
                points(found.at_target.interval),
                p_text(found.at_target.p),
                "–" if found.kept is None else points(found.kept),
                f"{kept[0]} and {kept[1]} of {runs}",
            )
        )
    heads = ("", "all runs", "p", "at SynOps = target", "p", "kept runs", "kept")
    return Table(heads, rows)


def ours() -> Table:
    """`spear-ddpg` minus every other agent."""
    return _contrasts(against(OURS), 1, f"`{OURS}` minus")


def control() -> Table:
    """Every agent minus `random`."""
    return _contrasts(against(CONTROL), -1, f"minus `{CONTROL}`")


def tasks() -> Table:
    """What the runs of a task have in common, whatever the agent."""
    found = task_table(analysis())
    rows = []
    for task, (_, *rest) in zip(analysis().tasks, found.rows, strict=True):
        records = [r for agent in SEARCHING for r in analysis().of(agent, [task])]
        scores, accuracies = map(score_of, records), (r["test_accuracy"] for r in records)
        rank = spearmanr(list(scores), list(accuracies)).statistic
        rows.append((f"`{task[0]}` {task[1]:g}", *rest, f"{rank:.2f}"))
    heads = (*found.columns, "Spearman, score and accuracy")
    return Table(heads, rows)


def spent() -> Table:
    """Where the evaluations of a search go."""
    rows = []
    for agent in SEARCHING:
        cells = []
        for target in sorted(analysis().settings.targets):
            some = [task for task in analysis().tasks if task[1] == target]
            loads = [
                np.array(record["predicted_fraction"]) / target
                for record in analysis().of(agent, some)
            ]
            under = np.mean([(load <= 1).mean() for load in loads])
            near = np.mean([((load <= 1) & (load >= 0.9)).mean() for load in loads])
            cells += [f"{under:.0%}", f"{near:.0%}"]
        rows.append((f"`{agent}`", *cells))
    heads = (
        "agent", "0.15: at most the target", "and within 10 % of it", "0.3: at most the target",
        "and within 10 % of it",
    )  # fmt: skip
    return Table(heads, rows)


def pooled() -> Table:
    """Share of each task of `cluttered-digits` in the pooled interquartile mean of kept runs.

    Each task weighs the same before a quarter is cut off both ends of the pooled runs.
    """
    some = next(iter(analysis().data_sets().values()))
    rows = []
    for agent in (OURS, RIVAL, "tpe", CONTROL):
        runs = analysis().kept(agent, some)
        sizes = [len(task) for task in runs]
        weights = np.concatenate([np.full(size, 1 / (size * len(some))) for size in sizes])
        order = np.argsort(np.concatenate(runs), kind="stable")
        cut = sum(sizes) // 4 / sum(sizes)
        inside = np.diff(np.clip(np.cumsum(weights[order]), cut, 1 - cut), prepend=cut)
        owner = np.repeat(np.arange(len(some)), sizes)[order]
        shares = np.bincount(owner, inside, len(some)) / inside.sum()
        rows.append((f"`{agent}`", *(f"{share:.2f}" for share in shares)))
    names = [
        f"{workload.removeprefix('cluttered-digits')[1:] or 'a'} {target:g}"
        for workload, target in some
    ]
    return Table(("agent", *names), rows)


def score_of(record: Record) -> float:
    """The score of the plan that was fine-tuned."""
    return float(record["accuracy"][record["plans"].index(record["plan"])])


def _contrasts(found: dict[str, Contrast], sign: int, head: str) -> Table:
    rows = []
    for other, contrast in found.items():
        cells: list[str] = []
        for difference in (contrast.accuracy, contrast.at_target):
            assert isinstance(difference, Difference)
            assert difference.networks is not None
            cells += [
                points(difference.interval, sign),
                p_text(difference.corrected),
                points(difference.networks, sign),
            ]
        rows.append((f"`{other}`", *cells))
    heads = (
        head, "all runs", "p, Holm", "over 4 networks", "at SynOps = target", "p, Holm",
        "over 4 networks",
    )  # fmt: skip
    return Table(heads, rows)


def points(found: Interval, sign: int = 1) -> str:
    """A difference in points with its interval."""
    if sign < 0:
        found = Interval(-found.point, -found.high, -found.low)
    return words(found, "{:.1f}", 100)


def words(found: Interval, form: str = "{:.3f}", scale: float = 1.0) -> str:
    """A figure with its interval, as the pages write it."""
    # "-0.0" is 0.
    text = found.text(form, scale).replace("-0.0", "0.0") if form == "{:.1f}" else found.text(form)
    return text.replace("[–]", "(–)").replace("[", "(").replace(", ", " to ").replace("]", ")")


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (agents, primary, ours, control, tasks, spent, pooled)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
