"""Every kind of estimator: against least squares made otherwise, on lines, and on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from toys import failed, on_line, sample

from spear_gym.boundary.files import write_json
from spear_gym.lre import (
    FAMILIES,
    FittedEstimator,
    LREError,
    Sample,
    fit_estimator,
    load_estimator,
    quality_of,
    read_estimator,
)
from spear_gym.lre.estimators import fewest_samples

FINGERPRINT = {"workload": "0123456789abcdef"}
LAYERED = [name for name, family in FAMILIES.items() if family.layered]
LEARNED = ("trees", "mlp", "gp")
KINDS = [pytest.param(f, marks=pytest.mark.slow) if f == "mlp" else f for f in FAMILIES]
CLOSED = [name for name in FAMILIES if name not in LEARNED]

Floats = NDArray[np.float64]


def layered(count: int, seed: int = 0, layers: int = 4, spread: float = 0.0) -> list[Sample]:
    """Samples of 0.9 s + 0.04, the SynOps s shared out among layers at random."""
    rng = np.random.default_rng(seed)
    scored = rng.uniform(0.1, 1.0, count)
    shares = rng.dirichlet(np.full(layers, 5.0), count) * scored[:, None]
    found = 0.9 * scored + 0.04 + rng.normal(0, spread, count)
    rows = zip(scored.tolist(), found.tolist(), shares.tolist(), strict=True)
    return [sample(*row) for row in rows]


@cache
def fitted(family: str) -> FittedEstimator:
    """One of the kind, made once."""
    return fit_estimator(family, layered(12, spread=0.02), FINGERPRINT)


def features(samples: Sequence[Sample]) -> tuple[Floats, Floats, Floats]:
    """Totals, layers, and what they became."""
    return (
        np.array([s.scored for s in samples]),
        np.array([s.layers for s in samples]),
        np.array([s.finetuned for s in samples]),
    )


def predictions(family: str, samples: Sequence[Sample], new: Sequence[Sample]) -> list[float]:
    fit = fit_estimator(family, samples, FINGERPRINT)
    return [fit.predict(s.scored, s.layers) for s in new]


# Against others' least squares.


@given(st.integers(0, 200))
def test_proportional_is_the_line_through_zero(seed: int) -> None:
    samples, new = layered(12, seed, spread=0.03), layered(5, seed + 1000)
    x, _, y = features(samples)
    reference = LinearRegression(fit_intercept=False).fit(x[:, None], y)
    expected = reference.predict(features(new)[0][:, None]).clip(0, max(1.0, y.max()))
    assert predictions("proportional", samples, new) == pytest.approx(expected.tolist())
    # The closed form: sum x y / sum x^2.
    assert reference.coef_[0] == pytest.approx((x @ y) / (x @ x))


@given(st.integers(0, 200))
def test_quadratic_is_a_polynomial_of_degree_two(seed: int) -> None:
    samples, new = layered(12, seed, spread=0.03), layered(5, seed + 1000)
    x, _, y = features(samples)
    powers = PolynomialFeatures(2)
    reference = LinearRegression().fit(powers.fit_transform(x[:, None]), y)
    expected = reference.predict(powers.transform(features(new)[0][:, None]))
    expected = expected.clip(0, max(1.0, y.max()))
    assert predictions("quadratic", samples, new) == pytest.approx(expected.tolist(), abs=1e-7)


@given(st.integers(0, 200))
def test_per_layer_is_a_plane_over_the_layers(seed: int) -> None:
    samples, new = layered(12, seed, spread=0.03), layered(5, seed + 1000)
    _, x, y = features(samples)
    reference = LinearRegression().fit(x, y)
    expected = reference.predict(features(new)[1]).clip(0, max(1.0, y.max()))
    assert predictions("per-layer", samples, new) == pytest.approx(expected.tolist(), abs=1e-7)


def test_per_layer_finds_the_slope_of_each_layer() -> None:
    """Layers that drift by different factors: what the line cannot tell apart."""
    factors = np.array([1.4, 1.0, 0.7, 0.9])
    given_samples = [
        sample(s.scored, float(factors @ s.layers) + 0.01, s.layers) for s in layered(30)
    ]
    fit = fit_estimator("per-layer", given_samples[:20], FINGERPRINT, given_samples[20:])
    line = fit_estimator("linear", given_samples[:20], FINGERPRINT, given_samples[20:])
    assert fit.held_out is not None
    assert line.held_out is not None
    assert fit.held_out.mean_absolute_error < 1e-9 < 0.005 < line.held_out.mean_absolute_error


def test_a_layer_without_synops_does_no_harm() -> None:
    """The first layer of an analog input has none: its column is zero, the system singular."""
    samples = [sample(s.scored, s.finetuned, (0.0, *s.layers)) for s in layered(12)]
    new = layered(4, seed=3)
    shown = [sample(s.scored, s.finetuned, (0.0, *s.layers)) for s in new]
    assert predictions("per-layer", samples, shown) == pytest.approx([s.finetuned for s in new])


# On a line without noise.


@pytest.mark.parametrize(
    ("family", "tolerance"),
    [
        *((name, 1e-7) for name in ("linear", "quadratic", "per-layer")),
        ("proportional", 0.04),  # it has no intercept
        ("gp", 0.005),
        ("mlp", 0.03),
        ("trees", 0.1),  # steps
    ],
)
def test_recovers_a_line(family: str, tolerance: float) -> None:
    fit = fit_estimator(family, layered(40), FINGERPRINT)
    new = [s for s in layered(30, seed=1) if 0.2 <= s.scored <= 0.9]
    wrong = [abs(fit.predict(s.scored, s.layers) - s.finetuned) for s in new]
    assert max(wrong) <= tolerance
    assert fit.fit.r2 > 0.98
    assert not fit.poor
    assert fit.family == family


def test_proportional_recovers_a_line_through_zero() -> None:
    fit = fit_estimator("proportional", on_line(0.8, 0.0, [0.1, 0.4, 0.9]), FINGERPRINT)
    assert fit.predict(0.5) == pytest.approx(0.4)
    assert fit.fit.residual_std == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("family", CLOSED)
def test_predictions_are_clipped(family: str) -> None:
    fit = fit_estimator(family, layered(12), FINGERPRINT)
    assert fit.predict(-5.0, (-5.0, 0.0, 0.0, 0.0)) == 0.0
    assert fit.predict(5.0, (5.0, 0.0, 0.0, 0.0)) == fit.max_prediction
    assert fit.max_prediction >= 1.0


# On disk.


@pytest.mark.parametrize("family", KINDS)
def test_json_round_trip(family: str, tmp_path: Path) -> None:
    """Of models only the samples are written; fitted again they predict the same to the bit."""
    samples, new = layered(25, spread=0.02), layered(10, seed=4)
    fit = fit_estimator(family, [*samples[:20], failed()], FINGERPRINT, samples[20:])
    write_json(tmp_path / "fit.json", fit.to_json())
    again = load_estimator(tmp_path / "fit.json")
    assert again == fit
    assert (again.family, again.failed, len(again.fitted)) == (family, 1, 20)
    for s in new:
        assert again.predict(s.scored, s.layers) == fit.predict(s.scored, s.layers)
    assert again.max_prediction == fit.max_prediction
    assert again.range == fit.range == (
        min(s.finetuned for s in samples[:20]),
        max(s.finetuned for s in samples[:20]),
    )  # fmt: skip
    assert quality_of(again, again.fitted).r2 == pytest.approx(fit.fit.r2, abs=0.01)


@pytest.mark.parametrize("family", ["quadratic", "per-layer", "trees"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "treees"}, "unknown estimator 'treees'"),
        ({"samples": []}, "0 samples are too few"),
        ({"fit": {}}, "damaged"),
    ],
)
def test_damaged_models(family: str, change: dict[str, object], message: str) -> None:
    data = fitted(family).to_json()
    with pytest.raises(LREError, match=message):
        read_estimator(data | change)


@pytest.mark.parametrize("family", LAYERED)
def test_a_file_without_layers(family: str) -> None:
    data = fitted(family).to_json()
    assert all(len(row["layers"]) == 4 for row in json.loads(json.dumps(data["samples"])))
    bare = [{**row, "layers": []} for row in data["samples"]]
    with pytest.raises(LREError, match=r"do not say their SynOps by layer .*fit again"):
        read_estimator(data | {"samples": bare})


# What cannot be fitted.


def test_unknown_name_suggests() -> None:
    with pytest.raises(LREError, match="unknown estimator 'quadratc'; did you mean 'quadratic'"):
        fit_estimator("quadratc", layered(10), FINGERPRINT)


@pytest.mark.parametrize("family", KINDS)
def test_too_few_samples(family: str) -> None:
    """With as many as parameters every residual is zero, and nothing says how good the fit is."""
    samples = layered(20, spread=0.02)
    least = fewest_samples(family, samples)
    assert least == {"linear": 3, "proportional": 3, "quadratic": 4, "per-layer": 6}.get(
        family, 10 if family == "trees" else 5
    )
    fit_estimator(family, samples[:least], FINGERPRINT)
    message = rf"{least - 1} samples given; the estimator '{family}' needs at least {least}"
    with pytest.raises(LREError, match=message):
        fit_estimator(family, samples[: least - 1], FINGERPRINT)
    message = rf"{least - 1} samples given \(2 more failed\)"
    with pytest.raises(LREError, match=message):
        fit_estimator(family, [*samples[: least - 1], failed(), failed()], FINGERPRINT)


@pytest.mark.parametrize("family", LAYERED)
def test_samples_without_layers(family: str) -> None:
    with pytest.raises(LREError, match=r"do not say their SynOps by layer .*estimator 'linear'"):
        fit_estimator(family, on_line(0.9, 0.0, np.linspace(0.1, 1, 12).tolist()), FINGERPRINT)


@pytest.mark.parametrize("family", LAYERED)
def test_predicting_without_layers(family: str) -> None:
    fit = fitted(family)
    with pytest.raises(LREError, match=f"estimator '{family}' needs the SynOps of every layer"):
        fit.predict(0.4)


@pytest.mark.parametrize("family", KINDS)
def test_failed_samples_are_counted_and_never_averaged_in(family: str) -> None:
    samples, new = layered(15, spread=0.02), layered(4, seed=9)
    with_failed = [failed(), *samples[:7], failed(), *samples[7:]]
    fit = fit_estimator(family, with_failed, FINGERPRINT, [failed()])
    assert (fit.failed, fit.fit.samples, fit.held_out) == (3, 15, None)
    assert not any(s.failed for s in fit.samples)
    got = [fit.predict(s.scored, s.layers) for s in new]
    assert got == predictions(family, samples, new)
    assert all(map(math.isfinite, got))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_at_one_value(family: str) -> None:
    rng = np.random.default_rng(0)
    same = [sample(0.3, y, rng.dirichlet(np.ones(4)) * 0.3) for y in rng.uniform(0.2, 0.4, 12)]
    with pytest.raises(LREError, match=r"same scored SynOps fraction 0\.3000"):
        fit_estimator(family, same, FINGERPRINT)
