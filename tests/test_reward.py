"""TAR: its formula, and the bounds that it declares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.reward import RewardError, TargetAwareReward, make_reward

shares = st.floats(0.0, 1.0)
ratios = st.floats(0.0, 50.0)
lams = st.floats(0.0, 100.0)


@given(shares, ratios, lams)
def test_formula(accuracy: float, ratio: float, lam: float) -> None:
    terms = TargetAwareReward(lam).terms(accuracy, ratio)
    assert set(terms) == {"accuracy", "synops_penalty"}
    assert terms["accuracy"] == accuracy
    over = ratio - 1.0 if ratio > 1.0 else 0.0
    assert terms["synops_penalty"] == -lam * over
    assert sum(terms.values()) == accuracy - lam * over


def test_by_hand() -> None:
    # Accuracy 0.9 at 30 % over the target: 0.9 - 5 * 0.3 = -0.6.
    assert sum(TargetAwareReward().terms(0.9, 1.3).values()) == pytest.approx(-0.6)
    assert sum(TargetAwareReward().terms(0.9, 1.0).values()) == 0.9
    assert sum(TargetAwareReward(lam=10).terms(0.5, 1.25).values()) == pytest.approx(-2.0)


@given(shares, ratios, lams, ratios)
def test_bounds_hold_and_are_attained(
    accuracy: float, ratio: float, lam: float, largest: float
) -> None:
    shape = TargetAwareReward(lam)
    low, high = shape.bounds(largest)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= sum(shape.terms(accuracy, min(ratio, largest)).values()) <= high
    assert sum(shape.terms(0.0, largest).values()) == low
    assert sum(shape.terms(1.0, 0.0).values()) == high


def test_by_name() -> None:
    assert make_reward("tar") == TargetAwareReward(5.0)
    assert make_reward("tar", {"lam": 10}) == TargetAwareReward(10)
    assert make_reward("tar").name == "tar"
    shape = TargetAwareReward(2.0)
    assert make_reward(shape) is shape


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf])
def test_lambda_must_be_a_finite_weight(lam: float) -> None:
    with pytest.raises(RewardError, match=r"lam is .*at least 0"):
        TargetAwareReward(lam)


def test_unknown_names_are_errors() -> None:
    with pytest.raises(RewardError, match=r"unknown reward 'tarr'; did you mean 'tar'\?"):
        make_reward("tarr")
    with pytest.raises(RewardError, match=r"unknown setting of reward 'tar' 'lamb'.*'lam'"):
        make_reward("tar", {"lamb": 1.0})
    with pytest.raises(RewardError, match="given by name"):
        make_reward(TargetAwareReward(), {"lam": 1.0})
