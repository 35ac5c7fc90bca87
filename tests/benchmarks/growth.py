"""How the cost of evaluations grows: with samples, with time steps, and over a long search.

    .venv/bin/python tests/benchmarks/growth.py                     # about 10,000 evaluations
    .venv/bin/python tests/benchmarks/growth.py --evaluations 500   # a look

Writes `growth.png` and `growth.json` to the folder `--out` (runs/growth). A `PlanEvaluator`
remembers every plan it has scored; what it remembers is added up and set against the growth of
resident memory. The run is made twice: once left alone, and once with the allocator told to return
its free memory before every look, which tells growth from gaps. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    MIB,
    evaluate_fresh,
    fresh_plans,
    give_back_free_memory,
    in_turn,
    machine,
    resident_bytes,
)

from spear_gym import load_workload
from spear_gym.data.splits import Split
from spear_gym.evaluation import PlanEvaluator
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.workers.processes import prepare_process
from spear_gym.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = (64, 128, 256, 384, 512, 768, 1024)
STEPS = (1, 2, 4, 8, 12, 16)
PREFIX_BYTES = 8 * MIB
"""Kept for plan prefixes in the long run: full after a few plans, so that it does not grow."""

MEASURED, FITTED, TRIMMED, COUNTED = "#2a6f97", "#c1121f", "#6a994e", "#333333"


@dataclass(frozen=True)
class Line:
    """A least-squares line.

    Attributes:
        slope: y per x.
        intercept: y at 0.
        r2: share of the variance that it explains.
        furthest: largest distance of a point from it, over the line's own range of y.
    """

    slope: float
    intercept: float
    r2: float
    furthest: float

    def __call__(self, x: float) -> float:
        return self.slope * x + self.intercept


@dataclass(frozen=True)
class Cost:
    """Seconds per evaluation against one quantity."""

    x: list[int]
    seconds: list[float]
    line: Line


@dataclass(frozen=True)
class LongRun:
    """Many evaluations of distinct plans.

    Attributes:
        evaluations: done when the other lists were measured.
        seconds: since the start.
        resident: memory in use, bytes.
        seconds_line: fitted to all seconds.
        fitted_from: index from which memory is fitted; before it, buffers and prefixes fill.
        resident_line: fitted to resident memory from there.
        remembered_per_plan: bytes of the evaluator's records, added up, over the plans.
    """

    evaluations: list[int]
    seconds: list[float]
    resident: list[int]
    seconds_line: Line
    fitted_from: int
    resident_line: Line
    remembered_per_plan: float

    @property
    def beyond_per_plan(self) -> float:
        """Growth of resident memory that the records do not account for, bytes per plan."""
        return self.resident_line.slope - self.remembered_per_plan


@dataclass(frozen=True)
class Growth:
    """All that is measured.

    Attributes:
        samples: cost against search samples.
        steps: cost against time steps.
        run: a long run, left alone.
        trimmed: the same with free memory returned before every look; ``None`` where the system
            cannot.
    """

    samples: Cost
    steps: Cost
    run: LongRun
    trimmed: LongRun | None


# -------------------------------------------------------------------- measuring


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """The least-squares line through at least two points."""
    at, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    slope, intercept = np.polyfit(at, values, 1)
    line = slope * at + intercept
    total = float(((values - values.mean()) ** 2).sum())
    left = float(((values - line) ** 2).sum())
    span = float(np.ptp(line))
    furthest = float(np.abs(values - line).max()) / span if span else 0.0
    return Line(float(slope), float(intercept), 1 - left / total if total else 1.0, furthest)


def resized(
    workload: Workload,
    *,
    samples: int | None = None,
    steps: int | None = None,
    calibration: int | None = None,
) -> Workload:
    """The workload with another number of search samples, time steps or calibration samples.

    Args:
        workload: of static images.
        samples: search is cropped, or repeated, to so many.
        steps: time steps T.
        calibration: calibration samples.
    """
    splits = workload.splits
    return Workload(
        model=workload.graph.model,
        train=splits.train,
        search=splits.search if samples is None else _repeated(splits.search, samples),
        test=splits.test,
        num_steps=workload.num_steps if steps is None else steps,
        name=workload.name,
        readout=workload.graph.readout,
        scoring=workload.scoring,
        calibration_samples=workload.calibration_samples if calibration is None else calibration,
    )


def _repeated(split: Split, samples: int) -> Split:
    return split.subset(torch.arange(samples) % len(split))


def cost(workloads: Mapping[int, Workload], scoring: Scoring, plans: int, repeats: int) -> Cost:
    """Seconds per evaluation of each workload, by the quantity in which they differ.

    All score the same plans, in turn, each plan once, and nothing is kept of them.
    """
    functions: dict[str, Callable[[], object]] = {
        str(x): evaluate_fresh(PlanEvaluator(workload, scoring=scoring, memory_bytes=0), plans)
        for x, workload in workloads.items()
    }
    seconds = [value / plans for value in in_turn(functions, repeats).values()]
    x = list(workloads)
    return Cost(x, seconds, fit(x, seconds))


def long_run(
    evaluator: PlanEvaluator, evaluations: int, every: int, *, trim: bool = False
) -> LongRun:
    """Scores distinct plans and watches time and memory.

    Args:
        evaluator: a fresh one.
        evaluations: how many; at least four times ``every``.
        every: evaluations between two looks.
        trim: have free memory returned before every look.
    """
    if evaluations < 4 * every:
        raise ValueError(f"{evaluations} evaluations; at least {4 * every} make a line")
    plans = fresh_plans(evaluator.space)
    done, seconds, resident = [], [], []
    start = time.perf_counter()
    for first in range(0, evaluations, every):
        for counts in islice(plans, min(every, evaluations - first)):
            evaluator.evaluate(counts)
        done.append(min(first + every, evaluations))
        seconds.append(time.perf_counter() - start)
        if trim:
            give_back_free_memory()
        resident.append(resident_bytes())
    middle = len(done) // 2
    return LongRun(
        done,
        seconds,
        resident,
        fit(done, seconds),
        middle,
        fit(done[middle:], resident[middle:]),
        remembered_bytes(evaluator) / len(evaluator.known),
    )


def remembered_bytes(evaluator: PlanEvaluator) -> int:
    """Bytes of all that an evaluator never forgets: plans and what was measured at prefixes."""
    return deep_bytes((evaluator.known, evaluator._prefixes), set())


def deep_bytes(value: object, seen: set[int]) -> int:
    """Bytes of plain data, everything counted once.

    Args:
        value: numbers, strings, containers and dataclasses.
        seen: identities already counted.
    """
    if id(value) in seen:
        return 0
    seen.add(id(value))
    return sys.getsizeof(value) + sum(deep_bytes(part, seen) for part in _parts(value))


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return []


def measure(
    workload: Workload,
    scoring: Scoring,
    *,
    evaluations: int,
    every: int,
    plans: int,
    repeats: int,
    samples: Sequence[int] = SAMPLES,
    steps: Sequence[int] = STEPS,
) -> Growth:
    """Measures everything; see :func:`long_run` and :func:`cost` for the arguments."""
    # The long runs come first: memory that the others used is not all returned to the system.
    small = resized(workload, samples=64, calibration=32)

    def run(trim: bool) -> LongRun:
        evaluator = PlanEvaluator(small, scoring=scoring, memory_bytes=PREFIX_BYTES)
        return long_run(evaluator, evaluations, every, trim=trim)

    alone = run(trim=False)
    trimmed = run(trim=True) if give_back_free_memory() else None
    by_samples = {n: resized(workload, samples=n) for n in samples}
    by_steps = {n: resized(workload, steps=n) for n in steps}
    return Growth(
        cost(by_samples, scoring, plans, repeats),
        cost(by_steps, scoring, plans, repeats),
        alone,
        trimmed,
    )


# -------------------------------------------------------------------- drawing


def draw(title: str, growth: Growth) -> Figure:
    """The picture: cost against samples, time steps and evaluations; memory over the runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=120, layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    _draw_cost(first, growth.samples, "search samples")
    _draw_cost(second, growth.steps, "time steps T")
    _draw_seconds(third, growth.run)
    _draw_memory(fourth, growth)
    for axes in (first, second, third, fourth):
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.05 * axes.dataLim.y1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="lower right", frameon=False)
    figure.suptitle(title)
    return figure


def _draw_cost(axes: Axes, measured: Cost, quantity: str) -> None:
    line = measured.line
    axes.plot(
        measured.x, [1000 * s for s in measured.seconds], "o", color=MEASURED, label="measured"
    )
    label = f"{1000 * line.intercept:.2f} ms + {1000 * line.slope:.4f} ms each, R² = {line.r2:.4f}"
    ends = [0, measured.x[-1]]
    axes.plot(ends, [1000 * line(x) for x in ends], color=FITTED, linewidth=1.2, label=label)
    axes.set_title(f"An evaluation against {quantity}", fontsize=11)
    axes.set_xlabel(quantity)
    axes.set_ylabel("milliseconds per evaluation")


def _draw_seconds(axes: Axes, run: LongRun) -> None:
    line, ends = run.seconds_line, [0, run.evaluations[-1]]
    axes.plot(run.evaluations, run.seconds, ".", color=MEASURED, markersize=4, label="measured")
    label = f"{1000 * line.slope:.2f} ms per evaluation, R² = {line.r2:.5f}"
    axes.plot(ends, [line(x) for x in ends], color=FITTED, linewidth=1.2, label=label)
    axes.set_title("Time over a long run", fontsize=11)
    axes.set_xlabel("distinct plans evaluated")
    axes.set_ylabel("seconds since the start")


def _draw_memory(axes: Axes, growth: Growth) -> None:
    _draw_resident(axes, growth.run, MEASURED, "resident")
    reference = growth.run
    if growth.trimmed is not None:
        reference = growth.trimmed
        _draw_resident(axes, reference, TRIMMED, "resident, free memory returned")
    line, each = reference.resident_line, reference.remembered_per_plan
    ends = [reference.evaluations[reference.fitted_from], reference.evaluations[-1]]
    alone = [(line(ends[0]) + each * (x - ends[0])) / MIB for x in ends]
    label = f"remembered plans alone: {each:.0f} bytes each"
    axes.plot(ends, alone, "--", color=COUNTED, linewidth=1.5, label=label)
    axes.set_title("Memory over a long run", fontsize=11)
    axes.set_xlabel("distinct plans evaluated")
    axes.set_ylabel("resident memory, MiB")


def _draw_resident(axes: Axes, run: LongRun, color: str, name: str) -> None:
    line = run.resident_line
    ends = [run.evaluations[run.fitted_from], run.evaluations[-1]]
    axes.plot(run.evaluations, [b / MIB for b in run.resident], ".", color=color, markersize=4)
    label = f"{name}: {line.slope:.0f} bytes per plan"
    axes.plot(ends, [line(x) / MIB for x in ends], color=color, linewidth=1.2, label=label)


# -------------------------------------------------------------------- all of it


def describe(growth: Growth) -> str:
    """The findings in words."""
    lines = {
        "seconds against samples": growth.samples.line,
        "seconds against time steps": growth.steps.line,
        "seconds against evaluations": growth.run.seconds_line,
    }
    said = [
        f"{name}: R² = {line.r2:.5f}, furthest point {line.furthest:.1%} of the range off"
        for name, line in lines.items()
    ]
    said.append(f"a remembered plan takes {growth.run.remembered_per_plan:.0f} bytes")
    runs = {"as it is": growth.run, "free memory returned": growth.trimmed}
    said += [_growth_of(name, run) for name, run in runs.items() if run is not None]
    return "\n".join(said)


def _growth_of(name: str, run: LongRun) -> str:
    beyond = run.beyond_per_plan
    return (
        f"resident memory, {name}: {run.resident_line.slope:.0f} bytes per plan; beyond the "
        f"remembered plans {beyond:.0f}, that is {1e4 * beyond / MIB:.1f} MiB in 10,000 evaluations"
    )


def write(folder: Path, growth: Growth, workload: str, scoring: Scoring) -> None:
    """Writes the picture and the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{workload}, {scoring} scoring, {torch.get_num_threads()} thread(s)"
    draw(title, growth).savefig(folder / "growth.png")
    settings = {"workload": workload, "scoring": scoring, "machine": machine()}
    text = json.dumps(settings | asdict(growth), indent=2)
    (folder / "growth.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Measures, draws and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--workload", default="digits")
    parser.add_argument("--scoring", choices=SCORINGS, default="recalibrated")
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=100, help="evaluations between two looks")
    parser.add_argument("--plans", type=int, default=10, help="plans of a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    options = parser.parse_args()
    prepare_process(1)
    growth = measure(
        load_workload(options.workload),
        options.scoring,
        evaluations=options.evaluations,
        every=options.every,
        plans=options.plans,
        repeats=options.repeats,
    )
    print(describe(growth))  # noqa: T201 - this is what the script is for
    write(options.out, growth, options.workload, options.scoring)


if __name__ == "__main__":
    main()
