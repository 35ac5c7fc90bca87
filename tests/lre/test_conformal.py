"""The upper bound: against a slow count, and its coverage of made-up noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from toys import failed, on_line, sample

from spear_gym.envs_registry.fits import SHIPPED
from spear_gym.lre import (
    BoundedEstimator,
    FittedEstimator,
    LinearEstimator,
    LREError,
    NoEstimator,
    Sample,
    bounded,
    estimate_of,
    fit_estimator,
    fit_line,
    load_estimator,
    samples_needed,
)
from spear_gym.lre.conformal import upper_bound
from spear_gym.lre.families import FAMILIES

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, Floats], Floats]

LAYERS = 3


def noisy(count: int, spread: float = 0.02, seed: int = 0) -> list[Sample]:
    """Samples about 0.8 s + 0.05, with the SynOps of three layers."""
    rng = np.random.default_rng(seed)
    scored = rng.uniform(0.05, 1.0, count)
    found = 0.8 * scored + 0.05 + rng.normal(0, spread, count)
    shares = rng.dirichlet(np.full(LAYERS, 20.0), count) * scored[:, None]
    rows = zip(scored.tolist(), found.tolist(), shares.tolist(), strict=True)
    return [sample(*row) for row in rows]


# The bound itself.


def slow_bound(points: Sequence[tuple[float, float]], at: float, confidence: float) -> float:
    """Leave out, refit and count: the least value that enough of f_-i(x) + R_i do not exceed."""
    values = []
    for i, (x, y) in enumerate(points):
        others = np.array([point for j, point in enumerate(points) if j != i])
        weight, intercept = np.polyfit(others[:, 0], others[:, 1], 1)
        values.append(weight * at + intercept + y - (weight * x + intercept))
    wanted = confidence * (len(points) + 1)
    reached = [v for v in values if sum(other <= v for other in values) >= wanted - 1e-9]
    return float(min(reached))


@given(
    st.lists(st.tuples(st.floats(0.05, 1.0), st.floats(-0.1, 0.1)), min_size=10, max_size=22),
    st.floats(0.0, 1.2),
    st.sampled_from([0.6, 0.8, 0.9]),
)
def test_equals_a_slow_count(
    noise: list[tuple[float, float]], at: float, confidence: float
) -> None:
    points = [(s, 0.9 * s + 0.02 + error) for s, error in noise]
    points += [(0.0, 0.03), (0.5, 0.46), (1.0, 0.94)]  # never all at one place
    fit = fit_line([sample(*point) for point in points], {})
    used = 1 - (1 - confidence) / 2 if fit.poor else confidence
    assume(used * (len(points) + 1) <= len(points))
    bound = bounded(fit, confidence)
    expected = min(max(slow_bound(points, at, used), 0.0), bound.max_prediction)
    assert bound.predict(at) == pytest.approx(expected, abs=1e-9)


def test_by_hand() -> None:
    # Nine candidates; at confidence 0.8 the ceil(0.8 * 10) = 8th smallest, at 0.9 the largest.
    above = np.array([0.3, -0.1, 0.2, 0.0, 0.1, -0.2, 0.5, 0.4, -0.3])
    left_out = np.full(9, 1.0)
    assert float(upper_bound(left_out, above, 0.8)) == pytest.approx(1.4)
    assert float(upper_bound(left_out, above, 0.9)) == pytest.approx(1.5)
    assert float(upper_bound(left_out, above, 0.81)) == pytest.approx(1.5)
    several = upper_bound(np.stack([left_out, left_out + 1]), above, 0.8)
    assert several.tolist() == pytest.approx([1.4, 2.4])


# Coverage.


def gaussian(rng: np.random.Generator, x: Floats) -> Floats:
    return rng.normal(size=x.shape)


def heavy(rng: np.random.Generator, x: Floats) -> Floats:
    """Infinite variance."""
    return rng.standard_t(2, x.shape)


def skewed(rng: np.random.Generator, x: Floats) -> Floats:
    """A long tail upwards, where a bound by the spread is too low."""
    return rng.exponential(size=x.shape) - 1


def uneven(rng: np.random.Generator, x: Floats) -> Floats:
    """Ten times as much at the one end as at the other."""
    return rng.normal(size=x.shape) * (0.1 + 0.9 * x)


def lines_without_one(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Slopes and intercepts without each sample in turn, ``(repeats, n)``, from running sums."""
    n = x.shape[1] - 1
    sx, sy = x.sum(1, keepdims=True) - x, y.sum(1, keepdims=True) - y
    sxx = (x * x).sum(1, keepdims=True) - x * x
    sxy = (x * y).sum(1, keepdims=True) - x * y
    slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)
    return slope, (sy - slope * sx) / n


REPEATS = 2000


@pytest.mark.parametrize("noise", [gaussian, heavy, skewed, uneven])
@pytest.mark.parametrize("count", [19, 30, 40])
def test_coverage_of_exchangeable_plans(noise: Noise, count: int) -> None:
    """Guaranteed are 1 - 2 * 0.05; for exchangeable plans it is close to 0.95 or above."""
    rng = np.random.default_rng(count)
    x = rng.uniform(0.05, 1.0, (REPEATS, count + 1))  # the last is the new plan
    y = 0.8 * x + 0.05 + 0.02 * noise(rng, x)
    slope, intercept = lines_without_one(x[:, :-1], y[:, :-1])
    above = y[:, :-1] - (slope * x[:, :-1] + intercept)
    bound = upper_bound(slope * x[:, -1:] + intercept, above, 0.95)
    covered = float((y[:, -1] <= bound).mean())
    assert covered >= 0.90
    # ceil(0.95 (n + 1)) / (n + 1) is 0.95, 0.968 and 0.951; the error of the mean is 0.005.
    expected = math.ceil(0.95 * (count + 1) - 1e-9) / (count + 1)
    assert covered == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("noise", [gaussian, heavy, skewed, uneven])
def test_coverage_of_the_estimator_itself(noise: Noise) -> None:
    """The whole path, clipping and widening included; one sided: most plans lie well below."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(120):
        x = rng.uniform(0.05, 1.0, 60)
        y = 0.8 * x + 0.05 + 0.02 * noise(rng, x)
        samples = [sample(*point) for point in zip(x.tolist(), y.tolist(), strict=True)]
        bound = bounded(fit_line(samples[:40], {}), 0.95)
        covered += sum(s.finetuned <= bound.predict(s.scored) for s in samples[40:])
    # 2400 plans, 20 of each bound: their coverage differs from bound to bound.
    assert covered / 2400 == pytest.approx(0.955, abs=0.025)


def test_a_bound_by_the_spread_would_not_cover_skewed_noise() -> None:
    """What the jackknife+ is for: Gaussian quantiles of the residuals fail where it does not."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.05, 1.0, (REPEATS, 41))
    y = 0.02 * skewed(rng, x)
    above = y[:, :-1] - y[:, :-1].mean(1, keepdims=True)
    gauss = y[:, :-1].mean(1) + 1.645 * above.std(1, ddof=1)
    assert float((y[:, -1] <= gauss).mean()) < 0.94


# When there is a bound.


def test_samples_needed() -> None:
    for confidence, needed in ((0.95, 19), (0.975, 39), (0.9, 9), (0.99, 99), (0.8, 4), (0.5, 1)):
        assert samples_needed(confidence) == needed
        # One fewer, and the bound would be the maximum of no sample at all.
        assert math.ceil(round(confidence * (needed + 1), 9)) <= needed
        assert math.ceil(round(confidence * needed, 9)) > needed - 1


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_confidence_outside_its_range(confidence: float) -> None:
    for refused in (samples_needed, lambda c: bounded(fit_line(noisy(20), {}), c)):
        with pytest.raises(LREError, match=r"confidence is .*; it must lie inside \(0, 1\)"):
            refused(confidence)


@pytest.mark.parametrize("confidence", [0.01, 0.3, 0.5])
def test_low_confidence_is_the_prediction_itself(confidence: float) -> None:
    fit = fit_line(noisy(3), {})
    assert bounded(fit, confidence) is fit
    assert bounded(NoEstimator(), confidence) == NoEstimator()


def test_no_bound_without_a_fit() -> None:
    with pytest.raises(LREError, match=r"lre 'none'.* confidence 0\.95; choose confidence 'off'"):
        bounded(NoEstimator(), 0.95)


def test_too_few_samples() -> None:
    bounded(fit_line(noisy(19), {}), 0.95)
    with pytest.raises(LREError, match=r"has 18 samples, .* confidence 0\.95 needs 19; fit more"):
        bounded(fit_line(noisy(18), {}), 0.95)


def test_failed_and_held_out_samples_do_not_count() -> None:
    samples = noisy(24)
    fit = fit_line([*samples[:18], failed(), failed()], {}, samples[18:])
    assert fit.failed == 2
    with pytest.raises(LREError, match="has 18 samples"):
        bounded(fit, 0.95)


def test_samples_of_an_estimator_that_needs_many() -> None:
    wide = [sample(s.scored, s.finetuned, np.full(12, s.scored / 12)) for s in noisy(14)]
    fit = fit_estimator("per-layer", wide, {})  # 13 parameters and one sample to spare
    assert not fit.poor
    with pytest.raises(LREError, match=r"has 14 samples, .* needs 15"):
        bounded(fit, 0.9)


def test_a_poor_fit_widens_the_bound() -> None:
    good, poor = fit_line(noisy(40), {}), fit_line(noisy(40, spread=0.2), {})
    assert (good.poor, poor.poor) == (False, True)
    bound, wide = bounded(good, 0.95), bounded(poor, 0.95)
    assert isinstance(bound, BoundedEstimator)
    assert isinstance(wide, BoundedEstimator)
    assert (bound.widened, wide.widened, wide.confidence) == (False, True, 0.95)
    # At 0.975 the 40th of 40 candidates counts, the largest.
    points = [(s.scored, s.finetuned) for s in poor.fitted]
    assert wide.predict(0.5) == pytest.approx(slow_bound(points, 0.5, 0.975))
    with pytest.raises(LREError, match=r"whose R2 is only 0\..*, has 38 samples, .* needs 39"):
        bounded(fit_line(noisy(38, spread=0.2), {}), 0.95)


def test_an_undefined_fit_is_poor() -> None:
    """All fine-tuned to one value: R2 is 0 / 0, and nothing says that the line is good."""
    flat = fit_line([sample(0.1 * i, 0.3) for i in range(1, 7)], {})
    assert math.isnan(flat.fit.r2)
    assert flat.poor


# What the bound is.


SLOW = {"mlp"}


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FAMILIES],
)
def test_every_family_has_a_bound(family: str) -> None:
    samples = noisy(13)
    fit = fit_estimator(family, samples[:12], {})
    bound = bounded(fit, 0.8)
    assert isinstance(bound, BoundedEstimator)
    assert estimate_of(bound) is fit
    below = [s.finetuned <= bound.predict(s.scored, s.layers) for s in fit.fitted]
    assert sum(below) >= 8
    new = samples[12]
    assert 0.0 <= bound.predict(new.scored, new.layers) <= bound.max_prediction


@pytest.mark.parametrize("family", ["linear", "proportional", "quadratic"])
def test_a_sample_beyond_one_that_the_model_meets_raises_no_bound(family: str) -> None:
    """Recalibrated, a whole plan can have more SynOps than the unpruned network."""
    scored = [*np.linspace(0.1, 1.0, 19).tolist(), 1.2]
    fit = fit_estimator(family, on_line(0.9, 0.0, scored), {})
    bound = bounded(fit, 0.95)
    assert [bound.predict(s) for s in (0.1, 0.5, 0.9)] == pytest.approx([0.09, 0.45, 0.81])


def clipped_bound(fit: FittedEstimator, at: Sample, confidence: float) -> float:
    """As it was taken when the predictions inside the residuals were clipped."""
    values = []
    for index, left in enumerate(fit.fitted):
        other = fit_estimator(fit.family, fit.fitted[:index] + fit.fitted[index + 1 :], {})
        near = other.predict(at.scored, at.layers)
        values.append(near + (left.finetuned - other.predict(left.scored, left.layers)))
    rank = math.ceil(round(confidence * (len(values) + 1), 9))
    return max(sorted(values)[rank - 1], 0.0)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_fits_keep_their_bounds(path: Path) -> None:
    """To the last digit: none of their predictions was clipped."""
    fit = load_estimator(path)
    bound = bounded(fit, 0.95)
    for scored in np.linspace(0.05, 1.0, 8).tolist():
        at = sample(scored, 0.0)
        assert bound.predict(scored) == clipped_bound(fit, at, 0.95)


@given(st.integers(0, 50), st.floats(0.0, 1.3))
def test_monotone_in_confidence(seed: int, scored: float) -> None:
    fit = fit_line(noisy(40, seed=seed), {})
    values = [bounded(fit, c).predict(scored) for c in (0.55, 0.7, 0.8, 0.9, 0.95)]
    assert values == sorted(values)


def test_bounds_stay_within_their_limits() -> None:
    """The limits of a reward come from the largest bound."""
    fit = fit_line(noisy(30, spread=0.05), {})
    bound = bounded(fit, 0.9)
    values = [bound.predict(float(s)) for s in np.linspace(-1.0, 3.0, 81)]
    assert min(values) >= 0.0
    assert max(values) == bound.max_prediction >= max(1.0, fit.max_prediction)


def test_noiseless_samples_bound_themselves() -> None:
    fit = fit_line(on_line(0.9, 0.03, np.linspace(0.1, 1.0, 19).tolist()), {})
    bound = bounded(fit, 0.95)
    assert [bound.predict(s) for s in (0.1, 0.5, 0.9)] == pytest.approx([0.12, 0.48, 0.84])


def test_bounds_of_equal_fits_are_equal() -> None:
    """Environments compare their judges."""
    samples = noisy(20)
    bounds = [bounded(fit_line(samples, {"a": "1"}), 0.9) for _ in range(2)]
    assert bounds[0] == bounds[1]
    assert bounds[0] != bounded(fit_line(samples, {"a": "1"}), 0.8)
    assert "array" not in repr(bounds[0])


def test_of_the_line_that_is_bounded() -> None:
    fit = fit_line(noisy(20), {})
    assert isinstance(estimate_of(bounded(fit, 0.9)), LinearEstimator)
    assert estimate_of(NoEstimator()) == NoEstimator()
