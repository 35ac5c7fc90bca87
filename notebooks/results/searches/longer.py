"""The networks of the searches at target 0.15, fine-tuned as they were and ten times as long.

    .venv/bin/python notebooks/results/searches/longer.py

Takes every plan of `data/*.csv` at the lowest target, and the unpruned network as a control, and
fine-tunes it twice with the search's seed: by the workload's recipe, and by the same with ten times
the epochs. Writes `data/longer.csv` row by row; what is there already is not run again. About ten
minutes on one core. Nothing is chosen by it.
"""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from spear_gym.boundary.files import write_text
from spear_gym.evaluation import PlanEvaluator
from spear_gym.report.page import csv_text
from spear_gym.workers.processes import prepare_process
from spear_gym.workload import load_workload, measure

DATA = Path(__file__).parent / "data"
PATH = DATA / "longer.csv"
WORKLOADS = ("digits", "cluttered-digits")
TARGET, TIMES = 0.15, (1, 10)
COLUMNS = (
    "workload",
    "agent",
    "seed",
    "plan",
    "epochs",
    "test_accuracy",
    "test_fraction",
    "search_fraction",
    "seconds",
)

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plans(evaluator: PlanEvaluator, workload: str) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Agent, seed and plan of every search at the target; first the network that loses nothing."""
    space = evaluator.space
    yield "unpruned", 0, space.counts([0.0] * len(space))
    for row in read(DATA / f"{workload}.csv"):
        if float(row["target"]) == TARGET:
            yield row["agent"], int(row["seed"]), tuple(map(int, row["plan"].split("-")))


def finetuned(evaluator: PlanEvaluator, plan: tuple[int, ...], seed: int, epochs: int) -> Row:
    """A plan after so many epochs."""
    workload, start = evaluator.workload, time.perf_counter()
    recipe = replace(workload.finetune, epochs=epochs)
    tuned = evaluator.finetune(plan, seed=seed, recipe=recipe)
    test = measure(workload, tuned.model, "test")
    return {
        "test_accuracy": repr(test.accuracy),
        "test_fraction": repr(test.synops / workload.reference("test").synops),
        "search_fraction": repr(tuned.search.synops / evaluator.reference.synops),
        "seconds": f"{time.perf_counter() - start:.1f}",
    }


def main() -> None:
    """Runs what is missing."""
    prepare_process(1)
    rows = read(PATH)
    done = {(r["workload"], r["agent"], r["seed"], r["epochs"]) for r in rows}
    for name in WORKLOADS:
        evaluator = PlanEvaluator(load_workload(name))
        own = evaluator.workload.finetune.epochs
        for (agent, seed, plan), times in itertools.product(plans(evaluator, name), TIMES):
            key = (name, agent, str(seed), str(times * own))
            if key in done:
                continue
            named = dict(zip(("workload", "agent", "seed", "epochs"), key, strict=True))
            found = finetuned(evaluator, plan, seed, times * own)
            rows.append({**named, "plan": "-".join(map(str, plan)), **found})
            write_text(PATH, csv_text(COLUMNS, [[row[c] for c in COLUMNS] for row in rows]))


if __name__ == "__main__":
    main()
