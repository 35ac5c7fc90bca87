"""The searches of PROTOCOL.md, and their table.

    .venv/bin/python notebooks/results/first_searches.py --workload digits

Runs what is missing below `runs/first-searches` (a finished run is not run again), then writes
`searches-<workload>.csv` and `.md` beside this file.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
AGENTS = ("spear-ddpg", "random", "uniform")
TARGETS = (0.5, 0.3, 0.15)
SEEDS = (0, 1, 2)


def run(workload: str, agent: str, target: float, seed: int) -> dict[str, object]:
    """One search; its figures."""
    folder = Path("runs/first-searches") / f"{workload}-{agent}-{target:g}-{seed}"
    if not (folder / "result.json").is_file():
        resume = ["--resume"] if (folder / "settings.json").is_file() else []
        command = [os.environ.get("SPEAR", str(Path(sys.executable).parent / "spear")), "search"]
        settings = ["--workload", workload, "--agent", agent, "--target", str(target)]
        where = ["--seed", str(seed), "--out", str(folder.absolute())]
        subprocess.run(
            [*command, *settings, *where, *resume], check=True, stdout=subprocess.DEVNULL
        )
    result = json.loads((folder / "result.json").read_text())
    return {
        "workload": workload,
        "agent": agent,
        "target": target,
        "seed": seed,
        "score": result["scored"]["accuracy"],
        "predicted_fraction": result["scored"]["predicted_synops_fraction"],
        "test_accuracy": result["test"]["accuracy"],
        "test_fraction": result["test_synops_fraction"],
        "kept": result["kept"],
        "params_fraction": result["scored"]["params_fraction"],
        "paid": result["paid"],
        "episodes": result["episodes"],
        "search_seconds": round(result["seconds"]["search"], 1),
        "finetune_seconds": round(result["seconds"]["finetune"], 1),
        "plan": "-".join(map(str, result["plan"])),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Mean and range over seeds, one row per target and agent, as Markdown."""
    lines = [
        "| target | agent | test accuracy after fine-tuning | measured SynOps | kept | "
        "score before | paid |",
        "|---|---|---|---|---|---|---|",
    ]
    for target, agent in itertools.product(TARGETS, AGENTS):
        mine = [r for r in rows if (r["target"], r["agent"]) == (target, agent)]
        if not mine:
            continue
        kept = sum(bool(r["kept"]) for r in mine)
        paid = "/".join(str(r["paid"]) for r in mine)
        lines.append(
            f"| {target:g} | `{agent}` | {spread(mine, 'test_accuracy')} | "
            f"{spread(mine, 'test_fraction')} | {kept} of {len(mine)} | "
            f"{spread(mine, 'score')} | {paid} |"
        )
    return "\n".join(lines) + "\n"


def spread(rows: list[dict[str, object]], key: str) -> str:
    """Mean and range."""
    values = [float(str(row[key])) for row in rows]
    return f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", required=True)
    options = parser.parse_args()
    cells = itertools.product(AGENTS, TARGETS, SEEDS)
    rows = [run(options.workload, *cell) for cell in cells]
    stem = HERE / f"searches-{options.workload}"
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    stem.with_suffix(".md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
