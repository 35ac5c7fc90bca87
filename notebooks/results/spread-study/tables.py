"""The table of docs/results/spread.md, from `data/`; nothing is simulated.

.venv/bin/python notebooks/results/spread-study/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spear_gym.report.page import Table, table_markdown

DATA = Path(__file__).parent / "data"
FILES = ("cluttered-digits", "digits-events-0.3", "digits-events-0.15")


def study(name: str) -> dict[str, Any]:
    """A study as `spear spread-study` wrote it."""
    loaded: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return loaded


def spreads() -> Table:
    """Spread between plans against spread between seeds."""
    rows = []
    for found in map(study, FILES):
        counts = len(found["plans"]), found["left_out"], len(found["accuracies"][0])
        rows.append(
            (
                f"`{found['workload']}`",
                f"{found['fraction']:g}",
                "{} ({} left out)".format(*counts[:2]),
                f"{counts[2]}",
                f"{found['plan_std']:.3f}",
                f"{found['seed_std']:.3f}",
                f"{found['ratio']:.2f}",
            )
        )
    heads = (
        "workload",
        "SynOps",
        "plans",
        "seeds",
        "spread between plans",
        "between seeds",
        "ratio",
    )
    return Table(heads, rows)


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (spreads,)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
