"""What the SynOps target leaves out: the energy of the analog first layer.

    .venv/bin/python notebooks/results/analog-layer/tables.py --measure   # writes data/counts.json
    .venv/bin/python notebooks/results/analog-layer/tables.py             # the tables, from data/

SynOps and MACs of the unpruned shipped networks are counted on the test split (no training, under
a minute). Energies are Horowitz's ("Computing's energy problem", ISSCC 2014; 45 nm, 32-bit floating
point): 0.9 pJ for an addition, taken for a SynOp, and 4.6 pJ for a multiplication and an addition.
Arithmetic only: memory and neuron updates are left out.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from spear_gym.boundary.files import write_json
from spear_gym.report.page import Table, table_markdown

HERE = Path(__file__).parent
DATA = HERE / "data" / "counts.json"
SEARCHES = HERE.parent / "searches" / "data"
WORKLOADS = (
    "digits",
    "cluttered-digits",
    "cluttered-digits-b",
    "cluttered-digits-c",
    "digits-events",
)
SYNOP, MAC = 0.9, 4.6
"""Picojoules."""
LOW = 0.15
"""The lowest target."""

Counts = dict[str, dict[str, float]]


def measure() -> Counts:
    """Operations per sample of the unpruned networks."""
    from spear_gym.workload import load_workload

    counts = {}
    for name in WORKLOADS:
        found = load_workload(name).reference("test")
        counts[name] = {
            "synops": found.synops,
            "macs": found.macs,
            "macs_once": found.macs_once,
            "analog_channels": float(found.layers[0].channels),
        }
    return counts


def stored() -> Counts:
    """What :func:`measure` found."""
    counts: Counts = json.loads(DATA.read_text())
    return counts


def share(synops: float, macs: float) -> float:
    """Share of the arithmetic energy that lies in MACs."""
    return MAC * macs / (MAC * macs + SYNOP * synops)


def at_target(counts: dict[str, float], macs: str, fraction: float = 1.0) -> float:
    """Share of the MACs when SynOps are cut to a fraction and the first layer stays whole."""
    return share(fraction * counts["synops"], counts[macs])


def of_searched(workload: str, macs: str) -> list[float]:
    """The same of the networks that `spear-ddpg` and `random` found at the lowest target."""
    counts = stored()[workload]
    with (SEARCHES / f"{workload}.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if float(row["target"]) == LOW and row["agent"] in ("spear-ddpg", "random")
        ]
    return [
        share(
            float(row["test_fraction"]) * counts["synops"],
            int(row["plan"].split("-")[0]) / counts["analog_channels"] * counts[macs],
        )
        for row in rows
    ]


def shares() -> Table:
    """What is left out of the target, by network."""
    rows = []
    for name, counts in stored().items():
        cells = [f"{counts['synops']:,.0f}", f"{counts['macs']:,.0f}"]
        for macs in ("macs", "macs_once"):
            cells += [f"{at_target(counts, macs, fraction):.0%}" for fraction in (1.0, LOW)]
        rows.append((f"`{name}`", *cells))
    heads = (
        "network",
        "SynOps a sample",
        "MACs a sample",
        "MACs' share of the energy, unpruned",
        f"at {LOW:g}, first layer whole",
        "MACs once an image: unpruned",
        f"at {LOW:g}, first layer whole",
    )
    return Table(heads, rows)


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (shares,)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    if "--measure" in sys.argv[1:]:
        write_json(DATA, measure())
    print("\n\n".join(map(table_markdown, tables().values())))
