"""The contrasts of the ablation, counted again from its table of cells with NumPy alone.

    python tests/recount.py [cells.csv]

It shares no code with the package: whoever doubts the report can read these lines instead.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

CELLS = Path(__file__).parents[1] / "notebooks" / "results" / "ablation" / "cells.csv"
OURS, OTHERS = "spear-ddpg", ("evolution", "tpe", "cma-es", "random", "ppo", "gp", "ddpg")

T_975 = {2: 4.302653, 3: 3.182446}
"""Quantiles of Student's t by degrees of freedom, from a printed table."""

Table = dict[tuple[str, str, float], np.ndarray]
"""Values of the runs of an agent on a network and target."""


def read(path: Path = CELLS) -> tuple[Table, Table, Table]:
    """Accuracy, log of SynOps over target, and whether the target was kept."""
    accuracy, log, kept = (defaultdict(list) for _ in range(3))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["agent"], row["workload"], float(row["target"]))
            accuracy[key].append(float(row["test_accuracy"]))
            log[key].append(np.log(float(row["test_fraction"]) / float(row["target"])))
            kept[key].append(row["kept"] == "True")
    return tuple({k: np.array(v) for k, v in table.items()} for table in (accuracy, log, kept))


def tasks_of(table: Table) -> list[tuple[str, float]]:
    return sorted({key[1:] for key in table})


def moved_to_target(accuracy: Table, log: Table) -> Table:
    """Accuracies less what their SynOps explain, with a slope for each task, inside agents."""
    moved = {}
    for task in tasks_of(accuracy):
        agents = [agent for agent, *its in accuracy if tuple(its) == task]
        x = {agent: log[agent, *task] - log[agent, *task].mean() for agent in agents}
        slope = sum(x[a] @ accuracy[a, *task] for a in agents) / sum(x[a] @ x[a] for a in agents)
        for agent in agents:
            moved[agent, *task] = accuracy[agent, *task] - slope * log[agent, *task]
    return moved


def kept_only(accuracy: Table, kept: Table) -> Table:
    return {key: values[kept[key]] for key, values in accuracy.items()}


def difference(table: Table, other: str, ours: str = OURS) -> float:
    """Mean over tasks of the difference of the task's means; NaN when one has no run on a task."""
    pairs = [(table[ours, *task], table[other, *task]) for task in tasks_of(table)]
    if any(len(x) == 0 or len(y) == 0 for x, y in pairs):
        return float("nan")
    return float(np.mean([x.mean() - y.mean() for x, y in pairs]))


def interval(table: Table, other: str, draws: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap, each agent's runs drawn anew within each task."""
    rng = np.random.default_rng(1)
    tasks, total = tasks_of(table), np.zeros(draws)
    for task in tasks:
        for agent, sign in ((OURS, 1), (other, -1)):
            runs = table[agent, *task]
            total += sign * runs[rng.integers(len(runs), size=(draws, len(runs)))].mean(1)
    low, high = np.quantile(total / len(tasks), [0.025, 0.975])
    return float(low), float(high)


def p_value(table: Table, other: str, ours: str = OURS, shuffles: int = 4000) -> float:
    """Share of relabellings within tasks whose difference is at least as large."""
    rng = np.random.default_rng(2)
    drawn = np.zeros(shuffles)
    for task in tasks_of(table):
        x, y = table[ours, *task], table[other, *task]
        order = np.argsort(rng.random((shuffles, len(x) + len(y))), axis=1)
        rows = np.concatenate([x, y])[order]
        drawn += rows[:, : len(x)].mean(1) - rows[:, len(x) :].mean(1)
    observed = len(tasks_of(table)) * difference(table, other, ours)
    return float((1 + (np.abs(drawn) >= abs(observed) - 1e-12).sum()) / (1 + shuffles))


def over_networks(table: Table, other: str) -> tuple[float, float]:
    """t interval over the networks' own differences."""
    found = defaultdict(list)
    for workload, target in tasks_of(table):
        x, y = table[OURS, workload, target], table[other, workload, target]
        found[workload].append(x.mean() - y.mean())
    means = np.array([np.mean(values) for values in found.values()])
    half = T_975[len(means) - 1] * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() - half), float(means.mean() + half)


def pooled_interquartile_mean(table: Table, agent: str) -> float:
    """What reports showed before 2026-11-27: runs of all tasks pooled, a quarter cut at both ends.

    Each task weighs the same before the cut, which leaves out other tasks for each agent.
    """
    tasks = tasks_of(table)
    runs = np.concatenate([table[agent, *task] for task in tasks])
    sizes = [len(table[agent, *task]) for task in tasks]
    weights = np.concatenate([np.full(size, 1 / (size * len(tasks))) for size in sizes])
    order = np.argsort(runs, kind="stable")
    cut = (len(runs) // 4) / len(runs)
    inside = np.diff(np.clip(np.cumsum(weights[order]), cut, 1 - cut), prepend=cut)
    return float(inside @ runs[order] / inside.sum())


def main(path: Path = CELLS) -> None:
    accuracy, log, kept = read(path)
    tables = {
        "kept": kept_only(accuracy, kept),
        "all": accuracy,
        "at target": moved_to_target(accuracy, log),
    }
    lines = [f"{OURS} minus   " + "".join(f"{name:>12}" for name in tables) + "   (points)"]
    for other in OTHERS:
        found = [100 * difference(table, other) for table in tables.values()]
        lines.append(f"{other:18}" + "".join(f"{value:12.1f}" for value in found))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
