"""Three agents on two workloads, three targets and three seeds.

    .venv/bin/python notebooks/results/searches/run.py --workload digits

Runs what is missing below `runs/first-searches` (a finished run is not run again), then writes
`data/<workload>.csv`; `tables.py` makes the tables from it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parent / "data"
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


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", required=True)
    options = parser.parse_args()
    cells = itertools.product(AGENTS, TARGETS, SEEDS)
    rows = [run(options.workload, *cell) for cell in cells]
    path = DATA / f"{options.workload}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
