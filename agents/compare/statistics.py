"""Statistics of comparisons: every figure is a mean over tasks of a figure of the task.

Scores come as *strata*: one array of runs per task (a network and a target). Tasks differ in how
hard they are, so runs of different tasks are never pooled before they are averaged: a mean or a
trimmed mean over pooled runs stands on other tasks for one agent than for another. Here each task
is averaged by itself, and tasks weigh the same however many runs they have.

Intervals are percentile bootstraps stratified by task, by ``scipy.stats.bootstrap``: they speak of
other seeds on the same networks, and are too narrow where runs are few (:data:`TOO_NARROW`). For
other networks there is :func:`over_networks`.

The probability of improvement and the performance profile are those of rliable (Agarwal, Schwarzer,
Castro, Courville, Bellemare: Deep Reinforcement Learning at the Edge of the Statistical Precipice,
NeurIPS 2021). Its interquartile mean is not used: it is defined on scores normalised per task, with
as many runs of each task for every agent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Strata = Sequence[Scores]

FEWEST_SEEDS = 5
"""With fewer runs per task an interval says little; reports warn."""

TOO_NARROW = (
    "Percentile intervals are too narrow where runs are few: with normal errors those of one "
    "task's mean cover 84 % from five runs and 90 % from ten, those of a difference over eight "
    "tasks of ten runs 94 %."
)
"""For reports, of intervals at 95 %."""

RESAMPLES = 2000
PERMUTATIONS = 20_000
CONFIDENCE = 0.95

BATCH = 250
"""Bootstrap samples that are computed at once, to bound the memory."""


class StatisticsError(ValueError):
    """Scores that nothing can be computed from."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its interval.

    Attributes:
        point: the figure.
        low: lower end, NaN where no interval can be made.
        high: upper end, NaN as well.
    """

    point: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text("{:.3f}")

    def text(self, form: str, scale: float = 1.0) -> str:
        """The figure and its ends in a format, after multiplication by a scale."""
        # Sums in another order differ in their last digits, which must not decide what is shown.
        point, low, high = (
            form.format(round(scale * value, 9)) for value in (self.point, self.low, self.high)
        )
        return f"{point} [–]" if math.isnan(self.low) else f"{point} [{low}, {high}]"


def task_mean(strata: Strata) -> float:
    """Mean over tasks of the mean over a task's runs.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    return float(np.mean([task.mean() for task in checked(strata)]))


def task_mean_interval(strata: Strata, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """:func:`task_mean` with its interval; none where a task has one run only.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    return _bootstrapped(checked(strata), _mean_of_means, seed, resamples)


def task_mean_difference(
    ours: Strata, others: Strata, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Difference of two :func:`task_mean` over the same tasks, with its interval.

    Runs are drawn independently for the two: seeds are not paired, for nothing that a seed decides
    is common to two agents.

    Raises:
        StatisticsError: see :func:`checked`; also for different numbers of tasks.
    """
    count = len(_paired(ours, others))

    def difference(*samples: Scores, axis: int = -1) -> Any:
        first, second = samples[:count], samples[count:]
        return _mean_of_means(*first, axis=axis) - _mean_of_means(*second, axis=axis)

    return _bootstrapped([*ours, *others], difference, seed, resamples)


def mean_band(
    curves: Scores, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Scores, Scores, Scores]:
    """Mean over runs at every mark of one task's curves, with the band of its intervals.

    Args:
        curves: ``(runs, marks)``.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        Middle, lower and upper curve, each ``(marks,)``; with one run the band is NaN.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    checked([*curves.T])
    middle = curves.mean(0)
    if len(curves) < 2:
        return middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    found = stats.bootstrap(
        (curves,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return middle, found.low, found.high


def over_networks(differences: Sequence[float], networks: Sequence[str]) -> Interval | None:
    """The mean difference with networks as the unit: a t interval over the networks' own means.

    Args:
        differences: one per task.
        networks: the network of each task.

    Returns:
        The interval that speaks of other networks; ``None`` for one network, which cannot tell.
    """
    if len(differences) != len(networks):
        raise StatisticsError(f"{len(differences)} differences are not of {len(networks)} tasks")
    found: dict[str, list[float]] = {}
    for value, network in zip(differences, networks, strict=True):
        found.setdefault(network, []).append(value)
    means = np.array([np.mean(values) for values in found.values()])
    if len(means) < 2:
        return None
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 1)
    middle, half = float(means.mean()), float(quantile * stats.sem(means))
    return Interval(middle, middle - half, middle + half)


def permutation_p(
    ours: Strata, others: Strata, *, seed: int = 0, permutations: int = PERMUTATIONS
) -> float:
    """Two-sided p of the difference of :func:`task_mean`: labels are permuted within each task.

    The observed labelling counts as one of the permutations, so the smallest p is
    ``1 / (permutations + 1)``.

    Raises:
        StatisticsError: see :func:`task_mean_difference`.
    """
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(permutations)
    for x, y in zip(_paired(ours, others), others, strict=True):
        observed += x.mean() - y.mean()
        rows = rng.permuted(np.tile(np.concatenate([x, y]), (permutations, 1)), axis=1)
        drawn += rows[:, : len(x)].mean(1) - rows[:, len(x) :].mean(1)
    # Sums in another order differ in the last digits; as large means as large up to these.
    as_large = np.abs(drawn) >= abs(observed) - 1e-12
    return float((1 + as_large.sum()) / (1 + permutations))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values corrected for their number (Holm 1979), by the same names."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def probability_of_improvement(
    ours: Strata, others: Strata, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """P(a run of ours is better than one of others), ties half, mean over tasks.

    rliable's ``probability_of_improvement``: the Mann-Whitney U over its largest value.

    Raises:
        StatisticsError: see :func:`checked`; also for different numbers of tasks.
    """
    count = len(_paired(ours, others))

    def chance(*samples: Scores, axis: int = -1) -> Any:
        assert axis == -1
        pairs = zip(samples[:count], samples[count:], strict=True)
        return np.mean([_improvement(x, y) for x, y in pairs], axis=0)

    return _bootstrapped([*ours, *others], chance, seed, resamples)


def performance_profile(
    strata: Strata, thresholds: Scores, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Scores, Scores, Scores]:
    """Share of runs that score above each threshold, mean over tasks, with its pointwise band.

    rliable's run-score distribution, which wants scores normalised per task.

    Returns:
        Share, lower and upper end, each ``(thresholds,)``; with one run of a task no band (NaN).

    Raises:
        StatisticsError: see :func:`checked`.
    """
    marks = np.asarray(thresholds)

    def shares(*samples: Scores, axis: int = -1) -> Any:
        above = [[(task > mark).mean(axis) for mark in marks] for task in samples]
        return np.mean(above, axis=0)

    point = np.asarray(shares(*checked(strata)), np.float64)
    if min(map(len, strata)) < 2:
        return point, np.full_like(point, np.nan), np.full_like(point, np.nan)
    low, high = _ends(strata, shares, seed, resamples)
    return point, np.asarray(low), np.asarray(high)


def violation_interval(violations: int, runs: int, confidence: float = CONFIDENCE) -> Interval:
    """The rate of runs over target with its exact (Clopper-Pearson) interval.

    Raises:
        StatisticsError: for no runs, or more violations than runs.
    """
    if not 0 <= violations <= runs or runs < 1:
        raise StatisticsError(f"{violations} violations in {runs} runs are no rate")
    found = stats.binomtest(violations, runs).proportion_ci(confidence, method="exact")
    return Interval(violations / runs, float(found.low), float(found.high))


def percentiles(point: float, drawn: Scores) -> Interval:
    """A figure with the percentile interval of its draws, ``(resamples,)``."""
    rest = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [rest, 1 - rest])
    return Interval(point, float(low), float(high))


def checked(strata: Strata) -> Strata:
    """The strata, if something can be computed from them.

    Raises:
        StatisticsError: for no task, a task without runs, or a score that is not finite.
    """
    if len(strata) == 0:
        raise StatisticsError("there is no task to compute statistics of")
    for index, task in enumerate(strata):
        if task.ndim != 1 or len(task) == 0:
            raise StatisticsError(
                f"task {index} has scores of shape {task.shape}; it needs one score per run, and "
                "at least one"
            )
        if not np.isfinite(task).all():
            raise StatisticsError(
                f"task {index} has the scores {task.tolist()}; all must be finite"
            )
    return strata


def _paired(ours: Strata, others: Strata) -> Strata:
    if len(ours) != len(others):
        raise StatisticsError(f"{len(ours)} tasks cannot be compared with {len(others)}")
    checked(others)
    return checked(ours)


def _mean_of_means(*samples: Scores, axis: int = -1) -> Any:
    return np.mean([task.mean(axis) for task in samples], axis=0)


def _improvement(x: Scores, y: Scores) -> Scores:
    """P(X > Y) + P(X = Y) / 2 over the last axis of ``(..., runs)``."""
    above = (x[..., :, None] > y[..., None, :]).mean((-2, -1))
    level = (x[..., :, None] == y[..., None, :]).mean((-2, -1))
    return np.asarray(above + 0.5 * level, np.float64)


def _bootstrapped(
    samples: Strata, statistic: Callable[..., Any], seed: int, resamples: int
) -> Interval:
    """A statistic of independent samples with its interval, if each sample has two runs."""
    point = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Interval(point, math.nan, math.nan)
    low, high = _ends(samples, statistic, seed, resamples)
    return Interval(point, float(low), float(high))


def _ends(
    samples: Strata, statistic: Callable[..., Any], seed: int, resamples: int
) -> tuple[Any, Any]:
    found = stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=resamples,
        batch=BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high
