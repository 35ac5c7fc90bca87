"""The same work on two checkouts in turn, as a table: is anything slower than it was?

    git worktree add /tmp/before db1b8d0
    .venv/bin/python tests/benchmarks/before_after.py /tmp/before . --repeats 15

Every number is the median of the CPU time of so many processes, run before, after, before, after,
..., on one thread. In a process everything is done once to warm up, and then timed; only imports
are timed cold. Both checkouts are run with the libraries of the Python that runs this. Run nothing
beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Times = dict[str, list[float]]
"""Seconds of each task, one per process."""

TASKS = (
    "import spear_gym",
    "import with the environment",
    "score a plan of digits",
    "score a plan of cluttered-digits",
    "fine-tune digits, an epoch",
    "trace digits",
    "make an environment",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PLANS = 5
"""Plans that a process scores; other ones after the warm-up."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measured() -> dict[str, float]:
    """CPU seconds of every task, in this process; uses what all versions of the package have."""
    seconds = {"import spear_gym": cpu_seconds(lambda: import_module("spear_gym"))}
    rest = cpu_seconds(lambda: import_module("spear_gym.env"))
    seconds["import with the environment"] = seconds["import spear_gym"] + rest
    import gymnasium as gym
    import torch
    from benchmarks.common import evaluate_fresh

    from spear_gym import load_workload
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.snn.trace import trace

    torch.set_num_threads(1)
    tasks: dict[str, Callable[[], object]] = {}
    for name in ("digits", "cluttered-digits"):
        evaluator = PlanEvaluator(load_workload(name))
        tasks[f"score a plan of {name}"] = evaluate_fresh(evaluator, PLANS)
    workload = load_workload("digits")
    evaluator = PlanEvaluator(workload)
    counts = evaluator.space.counts([0.5] * len(evaluator.space))
    short = replace(workload.finetune, epochs=1)
    tasks["fine-tune digits, an epoch"] = lambda: evaluator.finetune(counts, recipe=short)
    model, inputs = workload.graph.model, workload.splits.train.inputs[:8]
    tasks["trace digits"] = lambda: trace(model, inputs)
    tasks["make an environment"] = lambda: gym.make("spear_gym:SpearPrune-v0", workload="digits")
    for task, work in tasks.items():
        work()
        seconds[task] = cpu_seconds(work) / (PLANS if task.startswith("score") else 1)
    return seconds


def in_process(checkout: Path) -> dict[str, float]:
    """:func:`measured` of a checkout, in a process of its own.

    Raises:
        RuntimeError: when the process fails, with what it said, or runs another package.
    """
    environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--measure"]
    ran = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"'{checkout}' failed:\n{ran.stderr}")
    found = json.loads(ran.stdout.splitlines()[-1])
    if not Path(found["package"]).resolve().is_relative_to(checkout.resolve()):
        raise RuntimeError(f"'{found['package']}' was run in place of '{checkout}'")
    seconds: dict[str, float] = found["seconds"]
    return seconds


def in_turn(checkouts: Sequence[Path], repeats: int) -> list[Times]:
    """Times of each checkout, taken in turn so that a busy machine is busy for all of them."""
    times: list[Times] = [{task: [] for task in TASKS} for _ in checkouts]
    for _ in range(repeats):
        for checkout, so_far in zip(checkouts, times, strict=True):
            for task, seconds in in_process(checkout).items():
                so_far[task].append(seconds)
    return times


def table(before: Times, after: Times) -> str:
    """Medians and their ratio, in Markdown."""
    lines = ["| task | before, ms | after, ms | after / before |", "|---|--:|--:|--:|"]
    for task in TASKS:
        old, new = (statistics.median(times[task]) for times in (before, after))
        lines.append(f"| {task} | {1e3 * old:.1f} | {1e3 * new:.1f} | {new / old:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, nargs="?", help="checkout of the earlier version")
    parser.add_argument("after", type=Path, nargs="?", default=Path.cwd(), help="and of the later")
    parser.add_argument("--repeats", type=int, default=15, help="processes of each")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        seconds = measured()
        import spear_gym

        sys.stdout.write(json.dumps({"package": spear_gym.__file__, "seconds": seconds}) + "\n")
        return
    if given.before is None or given.repeats < 1:
        parser.error("give the earlier checkout, and at least one repeat")
    for checkout in (given.before, given.after):
        if not (checkout / "spear_gym" / "__init__.py").is_file():
            parser.error(f"'{checkout}' is no checkout of spear-gym")
    before, after = in_turn([given.before.resolve(), given.after.resolve()], given.repeats)
    sys.stdout.write(table(before, after) + "\n")


if __name__ == "__main__":
    main()
