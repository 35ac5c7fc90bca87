"""The tables of docs/speed.md, from `data/`; nothing is timed.

.venv/bin/python notebooks/results/speed/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
SMALL, LARGE = ("digits", "cluttered-digits"), "vgg16"
SHOWN = {
    **dict.fromkeys(SMALL, ((64, 0.5), (512, 0.0), (512, 0.3), (512, 0.5), (512, 0.7))),
    LARGE: ((64, 0.0), (64, 0.3), (64, 0.5), (64, 0.7)),
}
"""Batch and prune ratio of the rows that the page shows; `speed.json` has more."""

Row = dict[str, Any]


def loaded(name: str) -> dict[str, list[Row]]:
    """The tables of a file, by title."""
    found: dict[str, list[Row]] = json.loads((DATA / name).read_text())["tables"]
    return found


def rows_of(tables: dict[str, list[Row]], title: str) -> list[Row]:
    """The table whose title begins so."""
    return next(rows for name, rows in tables.items() if name.startswith(title))


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def evaluation() -> Table:
    """Scoring a plan against snnTorch's loop."""
    keys = (
        "ours, ms",
        "masked / ours",
        "pruned loop / ours",
        "masked / ours in bfloat16",
        "ours / products",
    )
    rows = [
        (r["network"], str(r["batch"]), f"{r['ratio']:g}", *(number(r[key]) for key in keys))
        for r in rows_of(loaded("speed.json"), "evaluation")
        if (r["batch"], r["ratio"]) in SHOWN[r["network"]]
    ]
    heads = (
        "network",
        "batch",
        "ratio",
        "ours, ms",
        "masked loop",
        "pruned loop",
        "masked loop, ours in bfloat16",
        "ours over products",
    )
    return Table(heads, rows)


def training() -> Table:
    """A training step against snnTorch's loop."""
    found = rows_of(loaded("speed.json"), "training")
    return Table(
        ("network", "ours, ms", "snnTorch's loop", "snnTorch's loop, ours in bfloat16"),
        [(r["network"], *(number(r[key]) for key in list(r)[-3:])) for r in found],
    )


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (evaluation, training)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
