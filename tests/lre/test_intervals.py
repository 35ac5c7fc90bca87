"""Intervals of a line against SciPy's regression and the covariance of its coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from toys import failed, on_line, sample

from spear_gym.lre import LineIntervals, LREError, Sample, fit_line

fractions = st.floats(0.0, 1.2).map(lambda value: round(value, 4))
points = st.lists(st.tuples(fractions, fractions), min_size=3, max_size=30)


def noisy(count: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    scored = rng.uniform(0.05, 1.0, count)
    found = 0.8 * scored + 0.05 + rng.normal(0, 0.02, count)
    return [sample(*point) for point in zip(scored.tolist(), found.tolist(), strict=True)]


@given(points, fractions, st.sampled_from([0.5, 0.9, 0.95]))
def test_half_widths_equal_those_of_the_covariance(
    given_points: list[tuple[float, float]], at: float, confidence: float
) -> None:
    """Var(W x + b) = (x, 1) Cov (x, 1)^T, and one more plan adds the residual variance."""
    x, y = np.array(given_points).T
    assume(np.ptp(x) > 0.01)
    found = LineIntervals.of([sample(*point) for point in given_points], confidence)
    scipy = stats.linregress(x, y)
    assert found.weight == pytest.approx(scipy.slope, abs=1e-7)
    assert found.intercept == pytest.approx(scipy.intercept, abs=1e-7)
    design = np.stack([x, np.ones_like(x)], axis=1)
    residuals = y - design @ np.array([scipy.slope, scipy.intercept])
    variance = residuals @ residuals / (len(x) - 2)
    covariance = variance * np.linalg.inv(design.T @ design)
    t = stats.t.ppf(0.5 + confidence / 2, len(x) - 2)
    row = np.array([at, 1.0])
    mean = t * np.sqrt(max(row @ covariance @ row, 0.0))
    plan = t * np.sqrt(max(row @ covariance @ row + variance, 0.0))
    assert found.mean_half_width(at) == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert found.plan_half_width(at) == pytest.approx(plan, rel=1e-4, abs=1e-6)


def test_slope_interval_is_scipys() -> None:
    """Half width of the mean at 1 over that of the same residuals about their centre: the slope's.

    Far from the centre the mean's interval is the slope's times the distance.
    """
    samples = noisy(20)
    found = LineIntervals.of(samples)
    scipy = stats.linregress([s.scored for s in samples], [s.finetuned for s in samples])
    t = stats.t.ppf(0.975, 18)
    assert found.mean_half_width(1e6) / 1e6 == pytest.approx(t * scipy.stderr, rel=1e-6)
    assert found.mean_half_width(0.0) == pytest.approx(t * scipy.intercept_stderr)


def test_the_line_is_the_estimators() -> None:
    samples = noisy(15)
    found, fit = LineIntervals.of(samples), fit_line(samples, {})
    assert (found.weight, found.intercept) == pytest.approx((fit.weight, fit.intercept))
    assert found.spread == pytest.approx(fit.fit.residual_std)
    assert found.scored_at(fit.predict(0.4)) == pytest.approx(0.4)


def test_the_mean_becomes_sure_and_a_single_plan_does_not() -> None:
    few, many = LineIntervals.of(noisy(10)), LineIntervals.of(noisy(1000))
    assert many.mean_half_width(0.3) < 0.2 * few.mean_half_width(0.3)
    # t s tends to 1.96 * 0.02.
    assert many.plan_half_width(0.3) == pytest.approx(1.96 * 0.02, rel=0.05)
    assert few.plan_half_width(0.3) > few.mean_half_width(0.3)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    mean = plan = 0
    for _ in range(400):
        x = rng.uniform(0.05, 1.0, 8)
        y = 0.8 * x + 0.05 + rng.normal(0, 0.02, 8)
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        found = LineIntervals.of([sample(*pair) for pair in pairs], 0.9)
        predicted = found.weight * 0.3 + found.intercept
        mean += abs(predicted - 0.29) <= found.mean_half_width(0.3)
        new = 0.29 + rng.normal(0, 0.02)
        plan += abs(predicted - new) <= found.plan_half_width(0.3)
    assert mean / 400 == pytest.approx(0.9, abs=0.045)  # three standard errors
    assert plan / 400 == pytest.approx(0.9, abs=0.045)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "0 samples at 0 SynOps values"),
        ([sample(0.1, 0.1), sample(0.5, 0.5)], "2 samples at 2 SynOps values"),
        ([sample(0.3, 0.1 * i) for i in range(5)], "5 samples at 1 SynOps values"),
        ([sample(0.1, 0.1), sample(0.5, 0.5), failed(), failed()], "2 samples at 2"),
    ],
)
def test_degenerate_samples(samples: list[Sample], message: str) -> None:
    with pytest.raises(LREError, match=f"{message}.*at least 3, not all at one value"):
        LineIntervals.of(samples)


def test_failed_samples_are_left_out() -> None:
    samples = noisy(8)
    assert LineIntervals.of([*samples[:4], failed(), *samples[4:]]) == LineIntervals.of(samples)


def test_noiseless_samples() -> None:
    found = LineIntervals.of(on_line(0.5, 0.1, [0.1, 0.4, 0.9]))
    assert found.mean_half_width(0.3) == pytest.approx(0.0, abs=1e-12)
    assert found.scored_at(0.3) == pytest.approx(0.4)
    # 0.05 and 0.9 are beyond what the line gives on [0, 1].
    assert (found.scored_at(0.05), found.scored_at(0.9)) == (0.0, 1.0)


def test_flat_line() -> None:
    found = LineIntervals.of(on_line(0.0, 0.4, [0.1, 0.5, 0.9]))
    assert (found.scored_at(0.3), found.scored_at(7.0)) == (0.3, 1.0)
