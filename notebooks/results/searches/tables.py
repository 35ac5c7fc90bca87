"""The tables of docs/results/searches.md, from `data/`; nothing is simulated.

.venv/bin/python notebooks/results/searches/tables.py
"""

from __future__ import annotations

import csv
import itertools
import statistics
from pathlib import Path

from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
WORKLOADS = ("digits", "cluttered-digits")
AGENTS = ("spear-ddpg", "random", "uniform")
TARGETS = (0.5, 0.3, 0.15)

Row = dict[str, str]


def searches(workload: str) -> list[Row]:
    """Every search of a workload."""
    with (DATA / f"{workload}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of(rows: list[Row], target: float, agent: str) -> list[Row]:
    """The seeds of one cell."""
    return [r for r in rows if (float(r["target"]), r["agent"]) == (target, agent)]


def mean(rows: list[Row], key: str) -> float:
    """Over seeds."""
    return statistics.mean(float(row[key]) for row in rows)


def cells(workload: str) -> Table:
    """Mean and range over seeds, one row per target and agent."""
    rows = []
    for target, agent in itertools.product(TARGETS, AGENTS):
        mine = of(searches(workload), target, agent)
        kept = sum(row["kept"] == "True" for row in mine)
        rows.append(
            (
                f"{target:g}",
                f"`{agent}`",
                spread(mine, "test_accuracy"),
                spread(mine, "test_fraction"),
                f"{kept} of {len(mine)}",
                spread(mine, "score"),
                "/".join(row["paid"] for row in mine),
            )
        )
    heads = (
        "target",
        "agent",
        "test accuracy after fine-tuning",
        "measured SynOps",
        "kept",
        "score before",
        "paid",
    )
    return Table(heads, rows)


def spread(rows: list[Row], key: str) -> str:
    """Mean and range, of several."""
    values = [float(row[key]) for row in rows]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


# ------------------------------------------------------------------ fine-tuned again


def longer() -> list[Row]:
    """The networks of the lowest target fine-tuned again, by the recipe and ten times as long."""
    with (DATA / "longer.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ten_times() -> Table:
    """What ten times the recipe's epochs do, mean and range over seeds."""
    rows = []
    for workload, agent in itertools.product(WORKLOADS, ("unpruned", *AGENTS)):
        mine = [r for r in longer() if (r["workload"], r["agent"]) == (workload, agent)]
        lengths = sorted({int(r["epochs"]) for r in mine})
        cells = []
        for key in ("test_accuracy", "test_fraction"):
            for epochs in lengths:
                cells.append(spread([r for r in mine if int(r["epochs"]) == epochs], key))
        over = [sum(over_target(r) for r in mine if int(r["epochs"]) == e) for e in lengths]
        told = " and ".join(map(str, over)) if agent != "unpruned" else "–"
        rows.append((f"`{workload}`", f"`{agent}`", *cells, told))
    heads = (
        "workload",
        "network of",
        "accuracy, recipe's length",
        "ten times",
        "SynOps, recipe's length",
        "ten times",
        "over target, of 3",
    )
    return Table(heads, rows)


def over_target(row: Row) -> bool:
    """On test."""
    return float(row["test_fraction"]) > min(TARGETS)


def drift(workload: str) -> list[float]:
    """By how much ten times the length moves a pruned network's SynOps, as a share of them."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in sorted(longer(), key=lambda row: int(row["epochs"])):
        if row["workload"] == workload and row["agent"] != "unpruned":
            found.setdefault((row["agent"], row["seed"]), []).append(float(row["test_fraction"]))
    return [late / early - 1 for early, late in found.values()]


def again() -> list[tuple[float, float]]:
    """Accuracy and SynOps over target, here minus in the archive, of each network fine-tuned again.

    The archive was made on another kind of processor.
    """
    archive = {
        (row["workload"], row["agent"], row["seed"]): row
        for workload in WORKLOADS
        for row in searches(workload)
        if float(row["target"]) == min(TARGETS)
    }
    shortest = {w: min(int(r["epochs"]) for r in longer() if r["workload"] == w) for w in WORKLOADS}
    found = []
    for row in longer():
        key = (row["workload"], row["agent"], row["seed"])
        if key in archive and int(row["epochs"]) == shortest[row["workload"]]:
            accuracy, fraction = (
                float(row[k]) - float(archive[key][k]) for k in ("test_accuracy", "test_fraction")
            )
            found.append((accuracy, fraction / min(TARGETS)))
    return found


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    return {workload: cells(workload) for workload in WORKLOADS} | {"ten_times": ten_times()}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
