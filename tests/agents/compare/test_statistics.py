"""Statistics against direct, slow computations."""

from __future__ import annotations

import itertools
import math
import statistics as plain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spear_gym.agents.compare.curves import Anytime, hypervolume
from spear_gym.agents.compare.statistics import (
    StatisticsError,
    interquartile_mean,
    interquartile_mean_band,
    interquartile_mean_difference,
    interquartile_mean_interval,
    performance_profile,
    performance_profile_band,
    probability_of_improvement,
    probability_of_improvement_interval,
    violation_interval,
)

values = st.integers(-20, 20).map(lambda n: n / 8)
tasks = st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=4)


def arrays(scores: list[list[float]]) -> list[np.ndarray]:
    return [np.asarray(task, np.float64) for task in scores]


@given(tasks)
def test_interquartile_mean(scores: list[list[float]]) -> None:
    """Every run copied until each task has as many, and whole copies are cut off."""
    runs = sum(map(len, scores))
    copies = runs * math.lcm(*map(len, scores))
    everything = sorted(
        score for task in scores for score in task for _ in range(copies // len(task))
    )
    cut = runs // 4 * len(everything) // runs
    middle = everything[cut : len(everything) - cut]
    assert interquartile_mean(arrays(scores)) == pytest.approx(plain.fmean(middle))


def test_interquartile_mean_of_unequal_tasks_by_hand() -> None:
    """Weights 1/6, 1/6, 1/6, 1/2, a quarter cut off each end: 0, 1/12, 1/6 and 1/4 stay."""
    assert interquartile_mean(arrays([[1, 2, 3], [10]])) == pytest.approx(19 / 3)


def test_interquartile_mean_of_equal_tasks_is_scipys() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 7))
    assert interquartile_mean([*scores]) == stats.trim_mean(scores.ravel(), 0.25)


def test_seldom_kept_tasks_weigh_as_much_as_the_others() -> None:
    """One run on the hard task, ten on the easy one: the mean lies half way between them."""
    easy, hard = np.full(10, 0.8), np.full(1, 0.6)
    assert interquartile_mean([easy, hard]) == pytest.approx(0.7)
    found = interquartile_mean_difference([easy, hard], [easy, np.full(10, 0.6)])
    assert (found.point, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0))


@given(tasks, st.data())
def test_probability_of_improvement(scores: list[list[float]], data: st.DataObject) -> None:
    others = [data.draw(st.lists(values, min_size=1, max_size=6)) for _ in scores]
    expected = []
    for x, y in zip(scores, others, strict=True):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
        expected.append(sum(points) / len(points))
    found = probability_of_improvement(arrays(scores), arrays(others))
    assert found == pytest.approx(plain.mean(expected))
    back = probability_of_improvement(arrays(others), arrays(scores))
    assert found + back == pytest.approx(1.0)


@given(tasks, st.lists(values, min_size=1, max_size=5))
def test_performance_profile(scores: list[list[float]], thresholds: list[float]) -> None:
    everything = list(itertools.chain(*scores))
    expected = [sum(s > tau for s in everything) / len(everything) for tau in thresholds]
    found = performance_profile(arrays(scores), np.asarray(thresholds))
    assert found.tolist() == pytest.approx(expected)


def test_bootstrap_draws_within_tasks() -> None:
    """All resamples of two tasks of two runs, enumerated."""
    scores = arrays([[0.0, 1.0], [10.0, 14.0]])
    possible = []
    for first in itertools.product(scores[0], repeat=2):
        for second in itertools.product(scores[1], repeat=2):
            ordered = sorted((*first, *second))
            possible.append((ordered[1] + ordered[2]) / 2)
    low, high = np.quantile(possible, [0.1, 0.9])
    found = interquartile_mean_interval(scores, confidence=0.8, resamples=20_000)
    assert found.point == 5.5
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.26)
    assert min(possible) <= found.low <= found.high <= max(possible)


def test_one_task_agrees_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    found = interquartile_mean_interval([x], resamples=20_000)
    scipys = stats.bootstrap(
        (x,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.02)


def test_interval_of_improvement_agrees_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, size=12), rng.normal(size=15)
    found = probability_of_improvement_interval([x], [y], resamples=20_000)
    scipys = stats.bootstrap(
        (x, y),
        lambda a, b: stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)),
        n_resamples=4000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.point == pytest.approx(stats.mannwhitneyu(x, y).statistic / 180)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.02)


def test_difference_agrees_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, size=30), rng.normal(size=25)
    found = interquartile_mean_difference([x], [y], resamples=20_000)
    scipys = stats.bootstrap(
        (x, y),
        lambda a, b, axis: stats.trim_mean(a, 0.25, axis) - stats.trim_mean(b, 0.25, axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.point == pytest.approx(stats.trim_mean(x, 0.25) - stats.trim_mean(y, 0.25))
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.03)


def test_hierarchical_bootstrap_draws_networks_with_all_their_tasks() -> None:
    """All draws of two networks, enumerated: their runs agree, so networks are all that varies."""
    ours = arrays([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])  # the first two are of network a
    others = arrays([[0.0], [0.0], [1.0]])
    networks = ["a", "a", "b"]
    tasks = {"a": [0, 1], "b": [2]}
    possible = []
    for drawn in itertools.product("ab", repeat=2):
        chosen = [at for name in drawn for at in tasks[name]]
        x, y = (np.concatenate([s[at] for at in chosen]) for s in (ours, others))
        possible.append(stats.trim_mean(x, 0.25) - stats.trim_mean(y, 0.25))
    found = interquartile_mean_difference(ours, others, networks=networks, resamples=4000)
    assert (found.low, found.high) == (min(possible), max(possible))
    fixed = interquartile_mean_difference(ours, others, resamples=50)
    assert fixed.point == found.point == fixed.low == fixed.high


def test_hierarchical_bootstrap_of_tasks_with_runs_missing() -> None:
    """Networks aa, ab, ba and bb by hand: means 1.5, 2.25, 2.25 and 4 above those of the other."""
    ours = arrays([[1, 1, 1], [2], [5, 5]])
    others = arrays([[0], [0, 0], [1, 1, 1]])
    found = interquartile_mean_difference(ours, others, networks=["a", "a", "b"], confidence=0.9)
    assert (found.point, found.low, found.high) == pytest.approx((2.25, 1.5, 4.0))


def test_hierarchical_interval_covers_other_networks_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(5)
    plain_hits = hits = 0
    for trial in range(100):
        effects = rng.normal(0.0, 1.0, 8)  # of networks; 0 in the mean over all there are
        ours = [rng.normal(effect, 0.3, 5) for effect in effects]
        others = [rng.normal(0.0, 0.3, 5) for _ in effects]
        names = [str(n) for n in range(8)]
        options = {"seed": trial, "resamples": 200}
        fixed = interquartile_mean_difference(ours, others, **options)
        drawn = interquartile_mean_difference(ours, others, networks=names, **options)
        plain_hits += fixed.low <= 0.0 <= fixed.high
        hits += drawn.low <= 0.0 <= drawn.high
    assert plain_hits < 60
    assert hits > 80


def test_differences_of_unlike_tasks() -> None:
    with pytest.raises(StatisticsError, match="1 tasks cannot be compared with 2"):
        interquartile_mean_difference(arrays([[1.0]]), arrays([[1.0], [2.0]]))
    with pytest.raises(StatisticsError, match="1, 2 of them named"):
        interquartile_mean_difference(arrays([[1.0]]), arrays([[1.0]]), networks=["a", "b"])


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        scores = [rng.normal(level, 1.0, 15) for level in (-0.5, 0.5)]
        found = interquartile_mean_interval(scores, seed=trial, resamples=300)
        hits += found.low <= 0.0 <= found.high  # symmetric, so the interquartile mean is 0
    assert 0.88 <= hits / 200 <= 0.99


def test_bands_and_seeds() -> None:
    rng = np.random.default_rng(4)
    scores = [rng.normal(size=10), rng.normal(size=7)]
    taus = np.linspace(-1, 1, 5)
    low, high = performance_profile_band(scores, taus)
    assert bool((low <= performance_profile(scores, taus)).all())
    assert bool((performance_profile(scores, taus) <= high).all())
    assert bool((low < high).any())
    first = interquartile_mean_interval(scores, seed=1)
    assert interquartile_mean_interval(scores, seed=1) == first
    assert interquartile_mean_interval(scores, seed=2) != first
    alone = interquartile_mean_interval([np.array([0.3])])
    assert (alone.low, alone.point, alone.high) == (0.3, 0.3, 0.3)


def test_band_is_the_interval_at_every_mark() -> None:
    curves = np.random.default_rng(6).normal(size=(7, 150))
    bands = interquartile_mean_band(curves, seed=3, resamples=100)
    for at, found in enumerate(zip(*bands, strict=True)):
        one = interquartile_mean_interval([curves[:, at]], seed=3, resamples=100)
        assert found == (one.point, one.low, one.high)
    with pytest.raises(StatisticsError, match="no task"):
        interquartile_mean_band(np.empty((3, 0)))


def test_violation_interval() -> None:
    """Of 0 in n the upper end is 1 - (alpha/2)^(1/n); of k in n the ends invert binomial tails."""
    assert violation_interval(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    found = violation_interval(3, 20)
    at_least = sum(math.comb(20, k) * found.low**k * (1 - found.low) ** (20 - k) for k in range(3))
    assert 1 - at_least == pytest.approx(0.025, abs=1e-6)
    at_most = sum(math.comb(20, k) * found.high**k * (1 - found.high) ** (20 - k) for k in range(4))
    assert at_most == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([], "no task"),
        ([np.zeros(0)], r"task 0 has scores of shape \(0,\)"),
        ([np.zeros(2), np.zeros((2, 2))], r"task 1 has scores of shape \(2, 2\)"),
        ([np.array([0.5, np.nan])], r"task 0 has the scores \[0.5, nan\]"),
    ],
)
def test_scores_that_mean_nothing(scores: list[np.ndarray], said: str) -> None:
    for function in (interquartile_mean, interquartile_mean_interval):
        with pytest.raises(StatisticsError, match=said):
            function(scores)
    with pytest.raises(StatisticsError, match=said):
        performance_profile(scores, np.zeros(1))
    with pytest.raises(StatisticsError, match="2 tasks cannot be compared with 1"):
        probability_of_improvement([np.ones(2)] * 2, [np.ones(2)])
    for violations, runs in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(StatisticsError, match="are no rate"):
            violation_interval(violations, runs)


# Curves.


@given(st.lists(st.tuples(st.integers(1, 5), st.one_of(st.none(), values)), max_size=8))
def test_anytime_curve(points: list[tuple[int, float | None]]) -> None:
    spent, best, reached = [], [], None
    for gap, value in points:
        spent.append((spent[-1] if spent else 0) + gap)
        reached = value if reached is None or (value or -9) > reached else reached
        best.append(reached)
    curve = Anytime(tuple(spent), tuple(best))
    heights = []
    for at in range(1, 51):
        known = [b for s, b in zip(spent, best, strict=True) if s <= at]
        heights.append(-1.0 if not known or known[-1] is None else known[-1])
    assert curve.heights(50, floor=-1.0).tolist() == heights
    assert curve.area(50, floor=-1.0) == pytest.approx(sum(heights) / 50)
    for level in (-0.5, 0.0, 1.0):
        first = next(
            (s for s, b in zip(spent, best, strict=True) if b is not None and b >= level), math.inf
        )
        assert curve.evaluations_to_reach(level) == first


def test_curves_that_are_none() -> None:
    with pytest.raises(StatisticsError, match="must ascend"):
        Anytime((2, 2), (0.1, 0.1)).heights(5)
    for spent in ((0, 1), (4, 6)):
        with pytest.raises(StatisticsError, match=r"are not within 1\.\.5"):
            Anytime(spent, (0.1, 0.1)).heights(5)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6))
def test_hypervolume_against_a_grid(points: list[tuple[int, int]]) -> None:
    """Cells of a grid that some point dominates; points lie on its lines."""
    shares = [(a / 10, f / 10) for a, f in points]
    cells = sum(any(a > x and f <= y for a, f in points) for x in range(10) for y in range(10))
    assert hypervolume(shares) == pytest.approx(cells / 100)
