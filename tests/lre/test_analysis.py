"""What samples tell: learning curves, transfer, coverage and drift, where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lre_samples import made_up_samples
from scipy import stats

from spear_gym.lre import LREError, Sample
from spear_gym.lre.analysis import (
    between,
    coverage,
    layer_drift,
    learning_curve,
    linearity,
    transfers,
)

FAILED = Sample((1, 1), 0.4, math.nan, math.nan, 0.0, (0.4,), (), "the loss became nan")


def test_curve_falls_to_the_noise() -> None:
    """Mean absolute error of Gaussian noise is its standard deviation times sqrt(2 / pi)."""
    pool = [*made_up_samples(200, noise=0.02, factors=(1.1,)), FAILED]
    held_out = made_up_samples(400, seed=1, noise=0.02, factors=(1.1,))
    points = learning_curve(pool, held_out, ["linear"], sizes=(5, 50, 200, 500))
    found = {point.samples: point for point in points if point.family == "linear"}
    assert list(found) == [5, 50, 200], "sizes beyond the pool are left out"
    assert found[5].error > found[50].error > 0.95 * found[200].error
    assert found[200].error == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.1)
    assert found[5].low < found[5].error < found[5].high
    control = points[0]
    expected = np.mean([abs(s.finetuned - min(s.scored, 1.0)) for s in held_out])
    assert (control.family, control.error) == ("none", pytest.approx(expected))


def test_sizes_too_small_for_an_estimator_are_left_out() -> None:
    points = learning_curve(made_up_samples(30), made_up_samples(20, seed=1), ["trees"], (5, 20))
    assert [point.samples for point in points if point.family == "trees"] == [20]


def test_transfer_to_another_relation_is_biased() -> None:
    here = made_up_samples(40, factors=(1.0,))
    there = made_up_samples(40, seed=1, factors=(1.2,))
    rows = {row.family: row for row in transfers(("a", here), ("b", there), ["linear"])}
    scored = np.mean([s.scored for s in there])
    assert rows["linear"].bias == pytest.approx(0.2 * scored, rel=0.05)
    assert rows["linear"].error == pytest.approx(rows["linear"].bias)
    assert (rows["linear"].samples, rows["none"].samples) == (40, 0)


def test_layers_of_another_network_are_not_transferred() -> None:
    here, there = made_up_samples(30), made_up_samples(30, factors=(1.0, 1.0))
    rows = transfers(("a", here), ("b", there), ["linear", "per-layer"])
    assert {row.family for row in rows} == {"none", "linear"}


def test_coverage_counts_what_a_loop_counts() -> None:
    pool, held_out = made_up_samples(19, noise=0.02), made_up_samples(50, seed=1, noise=0.02)
    (found,) = coverage(pool, held_out, sizes=(10, 19, 40), repeats=1)
    assert (found.samples, found.trials) == (19, 50), "10 are too few, 40 are not there"
    above = []
    for left in range(19):
        rest = [sample for index, sample in enumerate(pool) if index != left]
        line = np.polyfit([s.scored for s in rest], [s.finetuned for s in rest], 1)
        above.append((line, pool[left].finetuned - np.polyval(line, pool[left].scored)))
    held = 0
    for sample in held_out:
        values = sorted(np.polyval(line, sample.scored) + over for line, over in above)
        held += sample.finetuned <= max(0.0, values[math.ceil(0.95 * 20) - 1])
    assert found.held == held
    assert found.share == held / 50


def test_drift_finds_the_factors() -> None:
    samples = [*made_up_samples(50, factors=(1.1, 0.9, 1.0)), FAILED]
    drifts = layer_drift(samples)
    assert [drift.factor for drift in drifts] == pytest.approx([1.1, 0.9, 1.0])
    assert [drift.factor_spread for drift in drifts] == pytest.approx([0, 0, 0], abs=1e-12)
    assert sum(drift.share for drift in drifts) == pytest.approx(1.0)
    change = np.mean([s.finetuned - s.scored for s in samples[:-1]])
    assert sum(drift.contribution for drift in drifts) == pytest.approx(change)


def test_analog_layers_are_left_out_and_old_samples_refused() -> None:
    silent = [
        Sample(s.counts, s.scored, s.finetuned, 0.9, 1.0, (0.0, *s.layers), (0.0, *s.layers))
        for s in made_up_samples(5)
    ]
    assert [drift.layer for drift in layer_drift(silent)] == [1, 2, 3]
    old = [Sample((1, 2), 0.3, 0.3, 0.9, 1.0)]
    with pytest.raises(LREError, match="by layer"):
        layer_drift(old)


@pytest.mark.parametrize("curve", [0.0, 0.2])
def test_linearity_against_scipy(curve: float) -> None:
    samples = made_up_samples(60, noise=0.01, curve=curve, factors=(1.0,))
    found = linearity(samples)
    x, y = np.array([(s.scored, s.finetuned) for s in samples]).T
    line = stats.linregress(x, y)
    assert (found.weight, found.intercept) == pytest.approx((line.slope, line.intercept))
    assert found.r2 == pytest.approx(line.rvalue**2)
    # The F-test of one term is the square of its t-test.
    a, covariance = np.polyfit(x, y, 2, cov=True)
    t = a[0] / math.sqrt(covariance[0, 0])
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 57), rel=1e-6)
    assert (found.p_value < 1e-4) == bool(curve)
    # A parabola's middle lies this far below its chord.
    width = (x.max() - x.min()) / 2
    assert found.curvature == pytest.approx(-a[0] * width**2)
    with pytest.raises(LREError, match="at least 5"):
        linearity(samples[:4])


def test_between_is_half_open() -> None:
    samples = [Sample((1,), value, value, 0.9, 1.0) for value in (0.1, 0.3, 0.5)]
    assert [s.scored for s in between(samples, 0.1, 0.5)] == [0.1, 0.3]
