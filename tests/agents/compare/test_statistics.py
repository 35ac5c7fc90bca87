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
    TOO_NARROW,
    Interval,
    StatisticsError,
    holm,
    mean_band,
    over_networks,
    performance_profile,
    permutation_p,
    probability_of_improvement,
    task_mean,
    task_mean_difference,
    task_mean_interval,
    violation_interval,
)

values = st.integers(-20, 20).map(lambda n: n / 8)
tasks = st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=4)
FEW = {"resamples": 20}


def arrays(scores: list[list[float]]) -> list[np.ndarray]:
    return [np.asarray(task, np.float64) for task in scores]


@given(tasks)
def test_task_mean(scores: list[list[float]]) -> None:
    expected = plain.fmean(plain.fmean(task) for task in scores)
    assert task_mean(arrays(scores)) == pytest.approx(expected)


@pytest.mark.parametrize(("tasks", "runs", "cover"), [(1, 5, 84), (1, 10, 90), (8, 10, 94)])
def test_how_much_too_narrow_percentile_intervals_are(tasks: int, runs: int, cover: int) -> None:
    """One task's mean, and a difference over eight tasks; errors are normal."""
    rng = np.random.default_rng(0)
    interval = task_mean_interval if tasks == 1 else task_mean_difference
    trials = 600
    hits = 0
    for _ in range(trials):
        drawn = rng.normal(size=(1 if tasks == 1 else 2, tasks, runs))
        found = interval(*map(list, drawn), resamples=500)
        hits += found.low < 0 < found.high
    spread = (cover / 100 * (1 - cover / 100) / trials) ** 0.5
    assert hits / trials == pytest.approx(cover / 100, abs=3 * spread)
    assert f"{cover} %" in TOO_NARROW


def test_pooling_tasks_gives_the_wrong_order_and_means_of_tasks_the_right_one() -> None:
    """Ours is better on either task; the pooled interquartile mean says the opposite.

    Of two tasks it keeps the better half of the hard one and the worse half of the easy one.
    """
    ours = arrays([[0.61] * 10, [0.90] * 10])  # hard, easy
    others = arrays([[0.45] * 5 + [0.70] * 5, [0.85] * 10])
    assert all(x.mean() > y.mean() for x, y in zip(ours, others, strict=True))
    pooled = [stats.trim_mean(np.concatenate(strata), 0.25) for strata in (ours, others)]
    assert pooled[0] - pooled[1] == pytest.approx(-0.02)
    found = task_mean_difference(ours, others)
    assert found.point == pytest.approx(0.0425)
    assert found.low > 0


def test_runs_that_are_missing_on_a_hard_task_credit_nobody() -> None:
    """One run on the hard task, ten on the easy one, against ten on both: they are level."""
    easy, hard = np.full(10, 0.8), np.full(1, 0.6)
    assert task_mean([easy, hard]) == pytest.approx(0.7)
    assert np.concatenate([easy, hard]).mean() > 0.78
    found = task_mean_difference([easy, hard], [easy, np.full(10, 0.6)])
    assert found.point == pytest.approx(0.0)
    assert math.isnan(found.low), "of a single run nothing can be drawn"
    assert str(found) == "0.000 [–]"


@given(tasks, st.data())
def test_probability_of_improvement(scores: list[list[float]], data: st.DataObject) -> None:
    others = [data.draw(st.lists(values, min_size=1, max_size=6)) for _ in scores]
    expected = []
    for x, y in zip(scores, others, strict=True):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
        expected.append(sum(points) / len(points))
    found = probability_of_improvement(arrays(scores), arrays(others), **FEW)
    assert found.point == pytest.approx(plain.mean(expected))
    back = probability_of_improvement(arrays(others), arrays(scores), **FEW)
    assert found.point + back.point == pytest.approx(1.0)


@given(tasks, st.lists(values, min_size=1, max_size=5))
def test_performance_profile(scores: list[list[float]], thresholds: list[float]) -> None:
    expected = [
        plain.fmean(sum(s > tau for s in task) / len(task) for task in scores) for tau in thresholds
    ]
    found, _, _ = performance_profile(arrays(scores), np.asarray(thresholds), **FEW)
    assert found.tolist() == pytest.approx(expected)


def test_bootstrap_draws_within_tasks() -> None:
    """All resamples of two tasks of two runs, enumerated."""
    scores = arrays([[0.0, 1.0], [10.0, 14.0]])
    possible = [
        (plain.fmean(first) + plain.fmean(second)) / 2
        for first in itertools.product(scores[0], repeat=2)
        for second in itertools.product(scores[1], repeat=2)
    ]
    found = task_mean_interval(scores, resamples=20_000)
    assert found.point == 6.25
    assert (found.low, found.high) == (min(possible), max(possible))


def test_intervals_agree_with_the_normal_approximation() -> None:
    """Variances of the tasks' means add up; draws are from what was seen, so over n, not n - 1."""
    rng = np.random.default_rng(0)
    ours, others = ([rng.normal(n, 1, 40) for n in range(3)] for _ in range(2))
    spread = math.sqrt(sum(task.var() / 40 for task in ours)) / 3
    found = task_mean_interval(ours, resamples=20_000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.05)
    both = math.sqrt(sum(task.var() / 40 for task in (*ours, *others))) / 3
    found = task_mean_difference(ours, others, resamples=20_000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * both, rel=0.05)
    assert found.point == pytest.approx(task_mean(ours) - task_mean(others))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        scores = [rng.normal(level, 1.0, 15) for level in (-0.5, 0.5)]
        found = task_mean_interval(scores, seed=trial, resamples=300)
        hits += found.low <= 0.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_of_improvement_agrees_with_the_mann_whitney_test() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, size=12), rng.normal(size=15)
    found = probability_of_improvement([x], [y], resamples=8000)
    scipys = stats.bootstrap(
        (x, y),
        lambda a, b: stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)),
        n_resamples=1000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.point == pytest.approx(stats.mannwhitneyu(x, y).statistic / 180)
    assert (found.low, found.high) == pytest.approx((scipys.low, scipys.high), abs=0.03)


def test_bands_and_seeds() -> None:
    rng = np.random.default_rng(4)
    scores = [rng.normal(size=10), rng.normal(size=7)]
    middle, low, high = performance_profile(scores, np.linspace(-1, 1, 5), resamples=300)
    assert bool((low <= middle).all())
    assert bool((middle <= high).all())
    assert bool((low < high).any())
    first = task_mean_interval(scores, seed=1)
    assert task_mean_interval(scores, seed=1) == first
    assert task_mean_interval(scores, seed=2) != first
    for band in (performance_profile([np.ones(1)], np.zeros(3)), mean_band(np.ones((1, 3)))):
        assert band[0].tolist() == [1.0] * 3
        assert np.isnan(band[1:]).all()


def test_band_is_the_interval_at_every_mark() -> None:
    curves = np.random.default_rng(6).normal(size=(7, 30))
    bands = mean_band(curves, seed=3, resamples=2000)
    for at, (middle, low, high) in enumerate(zip(*bands, strict=True)):
        one = task_mean_interval([curves[:, at]], seed=3)
        assert middle == pytest.approx(one.point)
        assert (low, high) == pytest.approx((one.low, one.high), abs=0.1)
    with pytest.raises(StatisticsError, match="no task"):
        mean_band(np.empty((3, 0)))


# Networks as the unit, permutations, corrections.


def test_interval_over_networks_by_hand() -> None:
    """Networks' means 1, 2 and 6: mean 3, standard error sqrt(7/3), t(0.975, 2) = 4.3027."""
    found = over_networks([0.0, 2.0, 2.0, 5.0, 7.0], ["a", "a", "b", "c", "c"])
    assert found is not None
    half = 4.302653 * math.sqrt(7 / 3)
    assert (found.point, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert over_networks([1.0, 2.0], ["a", "a"]) is None
    with pytest.raises(StatisticsError, match="1 differences are not of 2 tasks"):
        over_networks([1.0], ["a", "b"])


def test_interval_over_networks_covers_other_networks_where_the_one_over_seeds_does_not() -> None:
    rng = np.random.default_rng(5)
    over_seeds = hits = 0
    for trial in range(100):
        effects = rng.normal(0.0, 1.0, 4)  # of networks; 0 in the mean over all there are
        ours = [rng.normal(effect, 0.3, 5) for effect in effects]
        others = [rng.normal(0.0, 0.3, 5) for _ in effects]
        fixed = task_mean_difference(ours, others, seed=trial, resamples=200)
        differences = [x.mean() - y.mean() for x, y in zip(ours, others, strict=True)]
        drawn = over_networks(differences, list("abcd"))
        assert drawn is not None
        over_seeds += fixed.low <= 0.0 <= fixed.high
        hits += drawn.low <= 0.0 <= drawn.high
    assert over_seeds < 60
    assert hits >= 88


def test_permutations_within_tasks_against_all_of_them() -> None:
    ours, others = arrays([[1, 4, 5], [7, 9]]), arrays([[0, 2, 3], [6, 8]])
    observed = task_mean(ours) - task_mean(others)
    as_large = total = 0
    for first in itertools.combinations(range(6), 3):
        for second in itertools.combinations(range(4), 2):
            difference = 0.0
            for chosen, x, y in zip((first, second), ours, others, strict=True):
                both = np.concatenate([x, y])
                picked = np.isin(np.arange(len(both)), chosen)
                difference += (both[picked].mean() - both[~picked].mean()) / 2
            as_large += abs(difference) >= abs(observed) - 1e-12
            total += 1
    assert total == 120
    assert permutation_p(ours, others) == pytest.approx(as_large / total, abs=0.015)


def test_a_difference_between_tasks_is_none_between_agents() -> None:
    """Pooled, the labels would be exchanged between a hard and an easy task."""
    ours, others = arrays([[0.1, 0.2], [0.9, 0.8, 0.85]]), arrays([[0.2, 0.1], [0.8, 0.9, 0.85]])
    assert permutation_p(ours, others) == 1.0
    assert permutation_p(arrays([[1.0] * 8]), arrays([[0.0] * 8]), permutations=99) == 0.01


def test_holm_by_hand() -> None:
    p_values = {"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.6}
    found = holm(p_values)
    assert list(found) == list(p_values)
    assert found == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.6})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_figures_as_text() -> None:
    found = Interval(-0.0012, -0.02, 0.0349999999999)
    assert str(found) == "-0.001 [-0.020, 0.035]"
    assert found.text("{:+.1f}", 100) == "-0.1 [-2.0, +3.5]"


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
    for function in (task_mean, task_mean_interval):
        with pytest.raises(StatisticsError, match=said):
            function(scores)
    with pytest.raises(StatisticsError, match=said):
        performance_profile(scores, np.zeros(1))
    for compared in (task_mean_difference, permutation_p, probability_of_improvement):
        with pytest.raises(StatisticsError, match="2 tasks cannot be compared with 1"):
            compared([np.ones(2)] * 2, [np.ones(2)])
        with pytest.raises(StatisticsError, match=said):
            compared(scores, [np.ones(2)] * len(scores))
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
