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
    """Mean and range."""
    values = [float(row[key]) for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def tables() -> tuple[Table, ...]:
    """All of them, in the order of the page."""
    return tuple(map(cells, WORKLOADS))


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables())))
