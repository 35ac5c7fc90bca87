"""The tables of docs/results/sensitivity.md, from `*/data/`; nothing is simulated.

.venv/bin/python notebooks/results/sensitivity/tables.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from spear_gym.report.page import Table, table_markdown

HERE = Path(__file__).parent
WORKLOADS = ("digits", "cluttered-digits")
NAMES = {
    "penalty": "lambda {}",
    "observation": "the two measured features shown as 0",
    "scoring": "scoring `{}`",
}


def _table(workload: str) -> Table:
    with (HERE / workload / "study.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    usual = next(row for row in found if row["variant"] == "all features")
    rows = [_cells("default: lambda 5, all features, `refit`", usual)]
    for row in found:
        if row["minus default"] != "–":
            rows.append(_cells(NAMES[row["study"]].format(row["variant"]), row))
    heads = ("varied", "test accuracy", "minus default, points", "p, Holm", "over target")
    return Table(heads, rows)


def _cells(name: str, row: dict[str, str]) -> tuple[str, ...]:
    accuracy = row["test accuracy, all runs"]
    over = row["over target"].split()[0].removesuffix("%")
    return (
        name,
        words(accuracy),
        points(row["minus default"]),
        row["p, Holm"],
        f"{round(int(over) * int(row['runs']) / 100)} of {row['runs']}",
    )


def points(text: str) -> str:
    """A signed difference with its interval in points, or a dash."""
    if text == "–":
        return text
    numbers = text.replace("[", "").replace("]", "").replace(",", "").split()
    point, low, high = (f"{100 * float(number):.1f}" for number in numbers)
    return f"{point} ({low} to {high})".replace("-0.0", "0.0")


def words(text: str) -> str:
    """An interval as the pages write it."""
    return text.replace("[", "(").replace(", ", " to ").replace("]", ")")


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    return {workload: _table(workload) for workload in WORKLOADS}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
