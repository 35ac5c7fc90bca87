"""Statistics of comparisons, by rliable's definitions.

Agarwal, Schwarzer, Castro, Courville, Bellemare: Deep Reinforcement Learning at the Edge of the
Statistical Precipice, NeurIPS 2021. Computed with NumPy and SciPy, since rliable does not import
beside current pandas. Scores come as *strata*: one array of runs per task (a network and a
target). They need not be of the same length, for a run may have failed or may not count; then
each task weighs the same all the same, where rliable wants as many runs of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Strata = Sequence[Scores]

FEWEST_SEEDS = 5
"""With fewer runs per task an interval says little; reports warn."""

RESAMPLES = 2000
CONFIDENCE = 0.95

BLOCK = 64
"""Marks of a curve that are resampled at once, to bound the memory."""


class StatisticsError(ValueError):
    """Scores that nothing can be computed from."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its bootstrap interval."""

    point: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.point:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interquartile_mean(strata: Strata) -> float:
    """Mean of the middle of all runs of all tasks, each task weighing the same before trimming.

    With as many runs of each task this is rliable's ``aggregate_iqm``:
    ``scipy.stats.trim_mean(scores, 0.25)`` over everything at once. With fewer runs of some, their
    runs weigh more: an agent that seldom keeps a hard target would else be credited with the easy
    ones. Trimming is over all tasks together, so it may leave out a hard or an easy one whole.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    lengths = [len(task) for task in checked(strata)]
    return float(_middle_means(np.concatenate(strata)[None], lengths)[0])


def interquartile_mean_interval(
    strata: Strata,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The interquartile mean with a stratified bootstrap percentile interval.

    Runs are drawn with replacement within their task, as rliable does; tasks are fixed, so the
    interval speaks of other seeds, not of other networks. With one run per task its width is 0.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    checked(strata)
    rng = np.random.default_rng(seed)
    means = _drawn_means(strata, range(len(strata)), resamples, rng)
    return _percentiles(interquartile_mean(strata), means, confidence)


def interquartile_mean_band(
    curves: Scores, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[Scores, Scores, Scores]:
    """:func:`interquartile_mean_interval` at every mark of the curves of one task's runs.

    Args:
        curves: ``(runs, marks)``.
        seed: of the draws, which are the same at all marks.
        resamples: number of draws.
        confidence: of each interval.

    Returns:
        Middle, lower and upper curve, each ``(marks,)``.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    checked([*curves.T])
    draws = np.random.default_rng(seed).integers(len(curves), size=(resamples, len(curves)))
    blocks = [
        _quantiles(stats.trim_mean(curves[draws, at : at + BLOCK], 0.25, axis=1), confidence)
        for at in range(0, curves.shape[1], BLOCK)
    ]
    low, high = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return np.asarray(stats.trim_mean(curves, 0.25, axis=0), np.float64), low, high


Networks = Sequence[str]
"""The network of each task, by which a hierarchical bootstrap draws."""


def interquartile_mean_difference(
    ours: Strata,
    others: Strata,
    *,
    networks: Networks | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Difference of two interquartile means with a bootstrap percentile interval.

    Args:
        ours: runs by task.
        others: runs of the other by the same tasks.
        networks: network of each task. Given, the bootstrap is hierarchical (Davison and Hinkley
            1997, section 3.8): networks are drawn with replacement, the same for both, with all
            their tasks, then runs within each task. The interval then speaks of other networks,
            as far as the few that were tried can tell. Without, networks are fixed.
        seed: of the draws.
        resamples: number of draws.
        confidence: of the interval.

    Raises:
        StatisticsError: see :func:`checked`; also for different numbers of tasks.
    """
    names = [str(task) for task in range(len(ours))] if networks is None else list(networks)
    if not len(ours) == len(others) == len(names):
        raise StatisticsError(
            f"{len(ours)} tasks cannot be compared with {len(others)}, {len(names)} of them named"
        )
    point = interquartile_mean(ours) - interquartile_mean(others)
    rng = np.random.default_rng(seed)
    distinct = sorted(set(names))
    tasks = {name: [at for at, its in enumerate(names) if its == name] for name in distinct}
    picks = np.tile(np.arange(len(distinct)), (resamples, 1))
    if networks is not None:
        picks = np.sort(rng.integers(len(distinct), size=picks.shape), axis=1)
    drawn = np.empty(resamples)
    # Draws of the same networks are computed at once: with few networks there are few of them.
    kinds, kind_of = np.unique(picks, axis=0, return_inverse=True)
    for kind, those in enumerate(kinds):
        at_once = kind_of.ravel() == kind
        chosen = [at for pick in those for at in tasks[distinct[pick]]]
        count = int(at_once.sum())
        ours_mean, others_mean = (_drawn_means(s, chosen, count, rng) for s in (ours, others))
        drawn[at_once] = ours_mean - others_mean
    return _percentiles(point, drawn, confidence)


def probability_of_improvement(ours: Strata, others: Strata) -> float:
    """P(a run of ours is better than one of others), ties half, mean over tasks.

    rliable's ``probability_of_improvement``: the Mann-Whitney U over its largest value.

    Raises:
        StatisticsError: see :func:`checked`; also for different numbers of tasks.
    """
    if len(ours) != len(others):
        raise StatisticsError(f"{len(ours)} tasks cannot be compared with {len(others)}")
    pairs = zip(checked(ours), checked(others), strict=True)
    return float(np.mean([_improvement(x[None], y[None])[0] for x, y in pairs]))


def probability_of_improvement_interval(
    ours: Strata,
    others: Strata,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The probability of improvement with a stratified bootstrap percentile interval.

    Raises:
        StatisticsError: see :func:`probability_of_improvement`.
    """
    point = probability_of_improvement(ours, others)
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for x, y in zip(ours, others, strict=True):
        total += _improvement(_resampled(x, resamples, rng), _resampled(y, resamples, rng))
    return _percentiles(point, total / len(ours), confidence)


def performance_profile(strata: Strata, thresholds: Scores) -> Scores:
    """Share of all runs that score above each threshold, ``(thresholds,)``.

    rliable's run-score distribution; tasks with the same number of runs weigh the same.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    scores = np.concatenate(checked(strata))
    return np.asarray((scores[None] > np.asarray(thresholds)[:, None]).mean(1), np.float64)


def performance_profile_band(
    strata: Strata,
    thresholds: Scores,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[Scores, Scores]:
    """Pointwise stratified bootstrap band of a profile, each ``(thresholds,)``.

    Raises:
        StatisticsError: see :func:`checked`.
    """
    checked(strata)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([_resampled(task, resamples, rng) for task in strata], axis=1)
    shares = np.stack([(drawn > tau).mean(1) for tau in np.asarray(thresholds)], axis=1)
    low, high = _quantiles(shares, confidence)
    return low, high


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


def violation_interval(violations: int, runs: int, confidence: float = CONFIDENCE) -> Interval:
    """The rate of runs over target with its exact (Clopper-Pearson) interval.

    Raises:
        StatisticsError: for no runs, or more violations than runs.
    """
    if not 0 <= violations <= runs or runs < 1:
        raise StatisticsError(f"{violations} violations in {runs} runs are no rate")
    found = stats.binomtest(violations, runs).proportion_ci(confidence, method="exact")
    return Interval(violations / runs, float(found.low), float(found.high))


def _resampled(task: Scores, resamples: int, rng: np.random.Generator) -> Scores:
    """``(resamples, runs)`` draws with replacement."""
    return task[rng.integers(len(task), size=(resamples, len(task)))]


def _drawn_means(
    strata: Strata, chosen: Sequence[int], resamples: int, rng: np.random.Generator
) -> Scores:
    """Interquartile means of draws from the chosen tasks, ``(resamples,)``."""
    drawn = np.concatenate([_resampled(strata[at], resamples, rng) for at in chosen], axis=1)
    return _middle_means(drawn, [len(strata[at]) for at in chosen])


def _middle_means(rows: Scores, lengths: Sequence[int]) -> Scores:
    """:func:`interquartile_mean` of each row ``(draws, runs)``, tasks of these lengths in turn."""
    if len(set(lengths)) == 1:
        return np.asarray(stats.trim_mean(rows, 0.25, axis=1), np.float64)
    runs = rows.shape[1]
    weights = np.repeat([1 / (len(lengths) * length) for length in lengths], lengths)
    order = np.argsort(rows, axis=1)
    below = np.cumsum(weights[order], axis=1)
    # As much is cut off each end as trim_mean would cut from this many runs.
    cut = int(0.25 * runs) / runs
    inside = np.diff(np.clip(below, cut, 1 - cut), axis=1, prepend=cut)
    return np.asarray((inside * np.take_along_axis(rows, order, axis=1)).sum(1) / inside.sum(1))


def _improvement(x: Scores, y: Scores) -> Scores:
    """P(X > Y) + P(X = Y) / 2 for each row of ``(resamples, runs)``."""
    above = (x[:, :, None] > y[:, None, :]).mean((1, 2))
    level = (x[:, :, None] == y[:, None, :]).mean((1, 2))
    return np.asarray(above + 0.5 * level, np.float64)


def _percentiles(point: float, drawn: Scores, confidence: float) -> Interval:
    low, high = _quantiles(drawn, confidence)
    return Interval(point, float(low), float(high))


def _quantiles(drawn: Scores, confidence: float) -> tuple[Scores, Scores]:
    rest = (1 - confidence) / 2
    low, high = np.quantile(drawn, [rest, 1 - rest], axis=0)
    return low, high
