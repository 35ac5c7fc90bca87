"""What the benchmark scripts share: timing in turn, fresh plans, memory, tables."""

from __future__ import annotations

import ctypes
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.pruning.plan import PlanSpace

Row = dict[str, str | float]
Tables = dict[str, list[Row]]

MIB = 2**20
TRIES = 10_000


def in_turn(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, run A B C A B C ... after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def fresh_ratios(space: PlanSpace, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Prune ratios from U(0, max_ratio), one per group; no two make the same plan.

    Raises:
        ValueError: when no plan is left, or hardly one.
    """
    rng = np.random.default_rng(seed)
    seen: set[Counts] = set()
    while True:
        for _ in range(TRIES):
            ratios = rng.uniform(0.0, space.max_ratio, len(space)).astype(np.float32)
            if space.counts(ratios) not in seen:
                break
        else:
            raise ValueError(f"no new plan in {TRIES} draws after {len(seen)} plans")
        seen.add(space.counts(ratios))
        yield ratios


def fresh_plans(space: PlanSpace, seed: int = 0) -> Iterator[Counts]:
    """The plans of :func:`fresh_ratios`."""
    return (space.counts(ratios) for ratios in fresh_ratios(space, seed))


def evaluate_fresh(evaluator: PlanEvaluator, plans: int, seed: int = 0) -> Callable[[], None]:
    """A function that scores so many plans, other ones at every call."""
    stream = fresh_plans(evaluator.space, seed)

    def run() -> None:
        for counts in islice(stream, plans):
            evaluator.evaluate(counts)

    return run


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_bytes()
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def give_back_free_memory() -> bool:
    """Has the allocator return what it holds but nobody uses; ``False`` where it cannot (no glibc).

    Tensors of ever other sizes leave gaps between those in use. They count as resident.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(0)
    return True


def peak_bytes() -> int:
    """The most memory this process has used.

    Linux hands ``ru_maxrss`` of the parent down to a child, so its own mark is read where it can
    be.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict[str, str | int]:
    """What times depend on."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def show(title: str, rows: list[Row]) -> None:
    """Prints rows of equal keys as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=140).print(table)


def write_json(path: Path, tables: Tables) -> None:
    """Writes tables, and what they were measured with, at full precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "tables": tables}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
