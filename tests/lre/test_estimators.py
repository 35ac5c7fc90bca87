"""The line: against others' least squares, clipping, fingerprints, and fits on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from toys import on_line, rebuilt, sample

from spear_gym.boundary.files import write_json
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import (
    LinearEstimator,
    LREError,
    NoEstimator,
    fit_line,
    load_estimator,
    read_estimator,
)
from spear_gym.training import Recipe
from spear_gym.workload import Workload

FINGERPRINT = {"workload": "0123456789abcdef", "scoring": "refit", "criterion": "l1"}

coefficients = st.tuples(st.floats(-2.0, 2.0), st.floats(-0.5, 0.5))
fractions = st.lists(st.floats(0.0, 1.2), min_size=3, max_size=30)


@pytest.fixture
def fit() -> LinearEstimator:
    rng = np.random.default_rng(0)
    scored = rng.uniform(0.1, 1.0, 12)
    noisy = 0.8 * scored + 0.05 + rng.normal(0, 0.02, 12)
    samples = [sample(float(s), float(f)) for s, f in zip(scored, noisy, strict=True)]
    return fit_line(samples[:8], FINGERPRINT, samples[8:])


# The line.


@given(coefficients, fractions)
def test_recovers_known_coefficients(line: tuple[float, float], scored: list[float]) -> None:
    scored = [*scored, 0.1, 0.9]  # never all at one place
    found = fit_line(on_line(*line, scored), FINGERPRINT)
    assert found.weight == pytest.approx(line[0], abs=1e-9)
    assert found.intercept == pytest.approx(line[1], abs=1e-9)
    assert found.fit.residual_std == pytest.approx(0.0, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.0, 1.2), st.floats(0.0, 1.2)), min_size=3, max_size=30))
def test_equals_numpy_and_scikit_learn(points: list[tuple[float, float]]) -> None:
    points = [*points, (0.1, 0.2), (0.9, 0.7)]
    x, y = np.array(points).T
    found = fit_line([sample(*p) for p in points], FINGERPRINT)
    expected, *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y)
    assert [found.weight, found.intercept] == pytest.approx(expected.tolist(), abs=1e-9)
    regression = LinearRegression().fit(x[:, None], y)
    assert found.weight == pytest.approx(float(regression.coef_[0]), abs=1e-9)
    predicted = regression.predict(x[:, None])
    assert found.fit.samples == len(points)
    assert found.fit.r2 == pytest.approx(r2_score(y, predicted), abs=1e-8)
    assert found.fit.mean_absolute_error == pytest.approx(
        mean_absolute_error(y, predicted), abs=1e-9
    )
    spread = math.sqrt(float(((y - predicted) ** 2).sum()) / (len(x) - 2))
    assert found.fit.residual_std == pytest.approx(spread, abs=1e-9)


def test_flat_line() -> None:
    found = fit_line(on_line(0.0, 0.4, [0.1, 0.5, 0.9]), FINGERPRINT)
    assert (found.weight, found.intercept) == pytest.approx((0.0, 0.4))
    assert found.predict(0.7) == pytest.approx(0.4)


def test_held_out_quality_is_of_samples_not_fitted_to() -> None:
    fitted = on_line(0.9, 0.05, [0.1, 0.5, 0.9])
    others = [sample(0.3, 0.9 * 0.3 + 0.05 + 0.1), sample(0.7, 0.9 * 0.7 + 0.05 - 0.1)]
    found = fit_line(fitted, FINGERPRINT, others)
    assert found.weight == pytest.approx(0.9)
    assert found.held_out is not None
    assert found.held_out.mean_absolute_error == pytest.approx(0.1)
    assert found.held_out.samples == 2
    assert found.samples == (*fitted, *others)
    # Both residuals are 0.1; the values are 0.42 and 0.58, their spread about the mean 0.08 each.
    assert found.held_out.r2 == pytest.approx(1 - 0.1**2 / 0.08**2)


@given(coefficients, st.floats(-1.0, 3.0))
def test_predictions_are_clipped(line: tuple[float, float], scored: float) -> None:
    estimator = LinearEstimator(*line, FINGERPRINT, fit_line(on_line(1, 0, [0, 1, 2]), {}).fit)
    assert estimator.max_prediction == max(1.0, line[0] + line[1])
    predicted = estimator.predict(scored)
    assert 0.0 <= predicted <= estimator.max_prediction
    raw = line[0] * scored + line[1]
    if 0.0 <= raw <= max(1.0, sum(line)):
        assert predicted == raw
    else:
        assert predicted in (0.0, estimator.max_prediction)


def test_no_estimator_changes_nothing() -> None:
    none = NoEstimator()
    assert [none.predict(s) for s in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]
    assert (none.predict(1.4), none.predict(-0.1), none.max_prediction) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples(count: int) -> None:
    with pytest.raises(LREError, match=f"{count} samples given; .*at least 3"):
        fit_line([sample(0.1 * i, 0.1) for i in range(count)], FINGERPRINT)


def test_all_at_one_synops_value() -> None:
    with pytest.raises(LREError, match=r"same scored SynOps fraction 0\.3000"):
        fit_line([sample(0.3, 0.1 * i) for i in range(5)], FINGERPRINT)


@pytest.mark.parametrize("bad", [(math.nan, 0.3), (0.3, math.nan), (math.inf, 0.3)])
def test_values_that_are_not_finite(bad: tuple[float, float]) -> None:
    with pytest.raises(LREError, match="not finite"):
        fit_line([sample(0.1, 0.1), sample(0.5, 0.4), sample(*bad), sample(0.9, 1.0)], FINGERPRINT)


# Fingerprints.


def test_own_fingerprint_is_accepted(fit: LinearEstimator) -> None:
    fit.check(dict(FINGERPRINT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring": "plain"}, "scoring: fitted under refit, used under plain"),
        (
            {"workload": "fedcba9876543210"},
            "workload: fitted under 0123456789ab, used under fedcba",
        ),
        ({"extra": "1"}, "extra: fitted under nothing, used under 1"),
    ],
)
def test_other_fingerprints_are_refused(
    fit: LinearEstimator, change: dict[str, str], message: str
) -> None:
    with pytest.raises(LREError, match=message):
        fit.check(FINGERPRINT | change)
    with pytest.raises(LREError, match="criterion: fitted under l1, used under nothing"):
        fit.check({k: v for k, v in FINGERPRINT.items() if k != "criterion"})


def test_fingerprint_holds_what_a_fit_depends_on(toy: Workload) -> None:
    """Recipe, scoring, criterion and weights change it; what does not matter does not."""
    base = PlanEvaluator(toy).fingerprint()
    assert PlanEvaluator(toy, max_ratio=0.5, min_channels=2).fingerprint() == base
    for changed in (PlanEvaluator(toy, scoring="plain"), PlanEvaluator(toy, criterion="bn_scale")):
        assert changed.fingerprint() != base
    for options in ({"finetune": Recipe(epochs=3)}, {"calibration_samples": 32}):
        other = rebuilt(toy, **options)
        assert PlanEvaluator(other).fingerprint() != base
    assert PlanEvaluator(rebuilt(toy)).fingerprint() == base


# Files.


def test_json_round_trip(fit: LinearEstimator, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    write_json(path, fit.to_json())
    assert load_estimator(path) == fit


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LREError, match=r"cannot read an LRE fit from .*missing\.json"):
        load_estimator(tmp_path / "missing.json")
    with pytest.raises(LREError, match="cannot read an LRE fit"):
        load_estimator(tmp_path)


def test_every_truncated_file_is_refused(fit: LinearEstimator, tmp_path: Path) -> None:
    text = json.dumps(fit.to_json())
    path = tmp_path / "fit.json"
    for length in range(0, len(text) - 1, 37):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(LREError, match=r"fit\.json"):
            load_estimator(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b'"text"', b"{}", b"null"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fit.json"
    path.write_bytes(content)
    with pytest.raises(LREError, match=r"fit\.json"):
        load_estimator(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "spear-gym lre 99"},
        {"weight": "much"},
        {"weight": None},
        {"weight": math.nan},
        {"intercept": math.inf},
        {"fingerprint": []},
        {"fit": {}},
        {"fit": {"r2": 1.0}},
        {"held_out": []},
        {"samples": 3},
        {"samples": [{}]},
        {"samples": [{"counts": 3}]},
    ],
)
def test_damaged_files_are_refused(
    fit: LinearEstimator, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "fit.json"
    write_json(path, fit.to_json() | change)
    with pytest.raises(LREError, match=r"fit\.json"):
        load_estimator(path)


@pytest.mark.parametrize("key", ["weight", "intercept", "fingerprint", "fit", "samples"])
def test_missing_entries_are_refused(fit: LinearEstimator, key: str) -> None:
    data = fit.to_json()
    del data[key]
    with pytest.raises(LREError, match=f"damaged: '{key}' is missing"):
        read_estimator(data)
