"""The tables of docs/results/promise.md, from `data/`; nothing is simulated.

.venv/bin/python notebooks/results/promise/tables.py
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binomtest

from spear_gym.envs_registry import ENTRIES
from spear_gym.lre.conformal import samples_needed, upper_bound
from spear_gym.report.page import Table, table_markdown

HERE = Path(__file__).parent
DATA = HERE / "data"
STUDIES = HERE.parent / "lre-study" / "data"
WORKLOADS = ("digits", "cluttered-digits", "digits-events")
ARMS = {"bound": "bound", "paper": "plain + line", "none": "none"}
"""Keys in the data, and what they are called."""
TARGETS = (0.5, 0.3, 0.15)
CONFIDENCE = 0.95
FIT = samples_needed(CONFIDENCE)
"""Samples of each fit of the arm `bound`: all stopped at the fewest that a bound needs."""
REDRAWS = 1000
RANGES = ((0.0, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.7), (0.7, 2.0))

Row = dict[str, Any]
Values = NDArray[np.float64]


@cache
def rows() -> tuple[Row, ...]:
    """Every search."""
    return tuple(json.loads(line) for line in (DATA / "rows.jsonl").read_text().splitlines())


def of(workload: str, arm: str, target: float | None = None) -> list[Row]:
    """The searches of a workload and arm, of one target or of all."""
    found = [r for r in rows() if (r["workload"], r["arm"]) == (workload, arm)]
    return [r for r in found if target is None or r["target"] == target]


@cache
def study(workload: str) -> dict[str, Any]:
    """Fine-tuned random plans of a workload, by `spear lre-study`."""
    with gzip.open(STUDIES / f"{workload}.json.gz", "rt", encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def pool(workload: str, scoring: str) -> dict[str, Any]:
    """Those under one scoring, fine-tuned for as long as the workload's recipe says."""
    found = study(workload)
    pools: list[dict[str, Any]] = found["pools"]
    wanted = (scoring, found["epochs"])
    return next(p for p in pools if (p["scoring"], p["epochs"]) == wanted)


def fitted(workload: str, arm: str) -> int:
    """Plans that were fine-tuned for an arm's prediction."""
    if arm == "none":
        return 0
    if arm == "paper":
        return len(pool(workload, "plain")["samples"])
    fit = json.loads((DATA / f"bound.{workload}.json").read_text())
    return len(fit["samples"]) + int(fit["failed"])


# ------------------------------------------------------------------ the arms


def arms() -> Table:
    """One row per workload and arm."""
    found = [
        _arm_row(f"`{workload}`", of(workload, arm), arm, str(fitted(workload, arm)))
        for workload, arm in itertools.product(WORKLOADS, ARMS)
    ]
    return Table(("workload", "arm", "fine-tuned for the prediction", *COLUMNS), found)


def by_target() -> Table:
    """The same for each target."""
    found = [
        _arm_row(f"`{workload}`", of(workload, arm, target), arm, f"{target:g}")
        for workload, target, arm in itertools.product(WORKLOADS, TARGETS, ARMS)
    ]
    return Table(("workload", "arm", "target", *COLUMNS), found)


COLUMNS = (
    "epochs a network",
    "over target before repair",
    "after repair",
    "distance from target",
    "after repair",
    "test accuracy",
    "after repair",
)


def _arm_row(name: str, own: Sequence[Row], arm: str, extra: str) -> tuple[str, ...]:
    repaired = [r for r in own if "after" in r]
    return (
        name,
        ARMS[arm],
        extra,
        f"{np.mean([epochs(r) for r in own]):.1f}",
        over(own, "before"),
        over(repaired, "after") if repaired else "–",
        f"{distance(own, 'before'):.1%}",
        f"{distance(repaired, 'after'):.1%}" if repaired else "–",
        f"{accuracy(own, 'before'):.3f}",
        f"{accuracy(repaired, 'after'):.3f}" if repaired else "–",
    )


def epochs(row: Row) -> int:
    """Of fine-tuning that a network had, repair included."""
    own = ENTRIES[row["workload"]].finetune.epochs
    return own + sum(int(step["epochs"]) for step in row.get("steps", ()))


def broken(own: Sequence[Row], when: str) -> list[float]:
    """By how much those over the target on test are over it, as shares of it."""
    return [r[when]["test"] / r["target"] - 1 for r in own if r[when]["test"] > r["target"]]


def over(own: Sequence[Row], when: str) -> str:
    """How many networks are over, with a Clopper-Pearson interval."""
    count = len(broken(own, when))
    interval = binomtest(count, len(own)).proportion_ci(method="exact")
    return f"{count} of {len(own)} ({interval.low:.0%} to {interval.high:.0%})"


def distance(own: Sequence[Row], when: str) -> float:
    """Median distance from the target on test, to either side, as a share of it."""
    return float(np.median([abs(r[when]["test"] / r["target"] - 1) for r in own]))


def accuracy(own: Sequence[Row], when: str) -> float:
    """Mean on test."""
    return float(np.mean([r[when]["test_accuracy"] for r in own]))


def severity() -> Table:
    """How far over the target those are that are over it, before any repair."""
    found = []
    for workload, arm in itertools.product(WORKLOADS, ARMS):
        own = of(workload, arm)
        by = broken(own, "before")
        mean = np.mean([r["before"]["test"] / r["target"] for r in own])
        ends = (f"{np.median(by):.1%}", f"{max(by):.1%}") if by else ("–", "–")
        found.append((f"`{workload}`", ARMS[arm], f"{len(by)}", *ends, f"{mean:.3f}"))
    heads = (
        "workload",
        "arm",
        "over, of 60",
        "median overshoot",
        "largest",
        "SynOps over target, mean of all",
    )
    return Table(heads, found)


# ------------------------------------------------------------------ what was delivered


@dataclass(frozen=True)
class Delivered:
    """What became of the networks of the arm `bound`.

    Attributes:
        total: networks.
        judged: delivered with the very plan that the bound judged.
        widened: delivered networks that went through a widening.
        trimmed: delivered networks that went through a trim.
        widenings: widenings that were tried.
        trims: trims that were tried.
    """

    total: int
    judged: int
    widened: int
    trimmed: int
    widenings: int
    trims: int


def delivered(workload: str) -> Delivered:
    """Counts over the searches of a workload."""
    own = of(workload, "bound")

    def went_through(action: str) -> int:
        return sum(any(s["action"] == action and s["adopted"] for s in r["steps"]) for r in own)

    tried = [step["action"] for r in own for step in r["steps"]]
    return Delivered(
        len(own),
        sum(not any(step["adopted"] for step in r["steps"]) for r in own),
        went_through("widen"),
        went_through("trim"),
        tried.count("widen"),
        tried.count("trim"),
    )


def deliveries() -> Table:
    """The same as a table."""
    found = []
    for workload in WORKLOADS:
        d = delivered(workload)
        judged = f"{d.judged} of {d.total} ({d.judged / d.total:.0%})"
        counts = (d.widened, d.trimmed, d.widenings, d.trims)
        found.append((f"`{workload}`", judged, *map(str, counts)))
    heads = (
        "workload",
        "delivered as the bound judged it",
        "delivered widened",
        "delivered trimmed",
        "widenings tried",
        "trims tried",
    )
    return Table(heads, found)


# ------------------------------------------------------------------ the bound itself


def chosen() -> Table:
    """The bound on plans that a search chose."""
    found = []
    for workload in WORKLOADS:
        own = of(workload, "bound")
        held = sum(r["before"]["search"] <= r["predicted"] for r in own)
        margin = np.mean([r["predicted"] - r["estimate"] for r in own])
        above = np.array([r["before"]["search"] - r["estimate"] for r in own])
        found.append(
            (
                f"`{workload}`",
                f"{held} of {len(own)}",
                f"{margin:.3f}",
                f"{above.mean():+.3f}",
                f"{above.std(ddof=1):.3f}",
            )
        )
    heads = (
        "workload",
        "bound held",
        "its margin",
        "measured minus predicted, mean",
        "its spread",
    )
    return Table(heads, found)


@dataclass(frozen=True)
class Coverage:
    """How often the bounds of many possible fits hold on random plans.

    Attributes:
        given_fit: share of the other plans that each fit's bound covers, one entry a redraw.
        by_range: share covered, over all redraws, of plans within each of :data:`RANGES`.
        price: mean margin there, over the SynOps of the plan.
    """

    given_fit: Values
    by_range: tuple[float, ...]
    price: tuple[float, ...]


@cache
def coverage(workload: str) -> Coverage:
    """Bounds from :data:`FIT` plans drawn anew, on all other plans of the study, scored `refit`."""
    found = pool(workload, "refit")
    plans = [*found["samples"], *found["held_out"]]
    before, after = (np.array([p[key] for p in plans]) for key in ("scored", "finetuned"))
    rng = np.random.default_rng(0)
    given: list[float] = []
    at, held, margin = [], [], []
    for _ in range(REDRAWS):
        order = rng.permutation(len(plans))
        mine, others = order[:FIT], order[FIT:]
        left_out, above, line = _leave_one_out(before[mine], after[mine], before[others])
        bounds = upper_bound(left_out, above, CONFIDENCE)
        covered = after[others] <= bounds
        given.append(float(covered.mean()))
        at.append(after[others])
        held.append(covered)
        margin.append((bounds - line) / after[others])
    every, covered, price = map(np.concatenate, (at, held, margin))
    inside = [(every >= low) & (every < high) for low, high in RANGES]
    return Coverage(
        np.array(given),
        tuple(float(covered[part].mean()) for part in inside),
        tuple(float(price[part].mean()) for part in inside),
    )


def _leave_one_out(x: Values, y: Values, new: Values) -> tuple[Values, Values, Values]:
    """Predictions ``(new, n)`` without each sample, its residual ``(n,)``, the line at ``new``."""
    n, without = len(x), (x.sum() - x, y.sum() - y, (x * x).sum() - x * x, (x * y).sum() - x * y)
    slopes, intercepts = _line(n - 1, *without)
    slope, intercept = _line(n, x.sum(), y.sum(), (x * x).sum(), (x * y).sum())
    above = y - (slopes * x + intercepts)
    return new[:, None] * slopes + intercepts, above, slope * new + intercept


def _line(n: int, x: Values, y: Values, xx: Values, xy: Values) -> tuple[Values, Values]:
    """Least squares from the sums over n samples, one line or several."""
    slope = (n * xy - x * y) / (n * xx - x * x)
    return slope, (y - slope * x) / n


def exact_chance() -> float:
    """That a bound, the largest of n exchangeable residuals, covers 95 % or more: Beta(n, 1)."""
    return float(beta.sf(CONFIDENCE, FIT, 1))


def fits() -> Table:
    """Coverage given the fit."""
    found = []
    for workload in WORKLOADS:
        given = coverage(workload).given_fit
        shares = (given.mean(), np.quantile(given, 0.05))
        cells = [f"{value:.1%}" for value in shares]
        cells += [f"{(given >= CONFIDENCE).mean():.0%}", f"{(given < 0.9).mean():.0%}"]
        found.append((f"`{workload}`", *cells))
    heads = (
        "workload",
        "plans covered, mean over fits",
        "by the worst 5 % of fits, at most",
        "fits that cover 95 % or more",
        "fits that cover less than 90 %",
    )
    return Table(heads, found)


def ranges() -> Table:
    """Coverage and price by SynOps after fine-tuning."""
    found = []
    for workload in WORKLOADS:
        by = coverage(workload)
        cells = [f"{c:.0%}, {p:.0%}" for c, p in zip(by.by_range, by.price, strict=True)]
        found.append((f"`{workload}`", *cells))
    heads = ["workload"]
    for low, high in RANGES:
        name = f"below {high:g}" if low == 0 else f"{low:g} to {high:g}"
        heads.append(f"above {low:g}" if high > 1 else name)
    return Table(heads, found)


def tables() -> dict[str, Table]:
    """All of them, by the mark that stands around each on its page."""
    made = (arms, severity, deliveries, chosen, fits, ranges, by_target)
    return {make.__name__: make() for make in made}


if __name__ == "__main__":
    print("\n\n".join(map(table_markdown, tables().values())))
