"""Reward shapes: their formulas, and the bounds that they declare."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.reward import (
    REWARDS,
    LagrangianReward,
    RewardError,
    TargetAwareReward,
    make_reward,
)

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
    with pytest.raises(RewardError, match=r"unknown reward 'tarr'; did you mean 'tar'"):
        make_reward("tarr")
    with pytest.raises(RewardError, match=r"unknown setting of reward 'tar' 'lamb'.*'lam'"):
        make_reward("tar", {"lamb": 1.0})
    with pytest.raises(RewardError, match="given by name"):
        make_reward(TargetAwareReward(), {"lam": 1.0})


def reward(name: str, accuracy: float, ratio: float, **settings: float) -> float:
    return sum(make_reward(name, settings).terms(accuracy, ratio).values())


def test_other_shapes_by_hand() -> None:
    # Over the target by half, and at half of it.
    assert reward("mnasnet-soft", 0.9, 1.5) == pytest.approx(0.9 * math.exp(-0.07 * math.log(1.5)))
    assert reward("mnasnet-soft", 0.9, 0.5) == pytest.approx(0.9 * math.exp(0.07 * math.log(2)))
    assert reward("mnasnet-hard", 0.9, 1.5) == pytest.approx(0.9 / 1.5)
    assert reward("mnasnet-hard", 0.9, 1.5, beta=-2.0) == pytest.approx(0.9 / 2.25)
    assert reward("mnasnet-hard", 0.9, 0.5) == 0.9
    assert reward("tunas", 0.9, 1.5) == pytest.approx(0.9 - 0.07 * 0.5)
    assert reward("tunas", 0.9, 0.5, beta=-0.2) == pytest.approx(0.9 - 0.2 * 0.5)
    assert reward("amc", 0.9, 1.5) == pytest.approx(-0.1 * math.log(15_000))
    assert reward("amc", 0.9, 0.5, scale=200.0) == pytest.approx(-0.1 * math.log(100))
    assert reward("hard", 0.9, 1.0) == 0.9
    assert reward("hard", 0.9, 1.0000001) == -1.0
    assert reward("hard", 0.9, 1.5, penalty=-0.25) == -0.25
    assert reward("lagrangian", 0.9, 1.5) == pytest.approx(0.9 - 1.0 * 0.5)


@pytest.mark.parametrize("name", sorted(REWARDS))
@given(accuracy=shares, ratio=ratios, largest=ratios)
def test_every_shape_keeps_its_bounds(
    name: str, accuracy: float, ratio: float, largest: float
) -> None:
    shape = make_reward(name)
    assert shape.name == name
    low, high = shape.bounds(largest)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= reward(name, accuracy, min(ratio, largest)) <= high


@pytest.mark.parametrize("name", sorted(REWARDS))
@given(ratio=ratios, low=shares, high=shares)
def test_more_accuracy_is_never_worse(name: str, ratio: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert reward(name, low, ratio) <= reward(name, high, ratio)


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"tunas"}))
@given(accuracy=shares, low=ratios, high=ratios)
def test_more_synops_are_never_better(name: str, accuracy: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert reward(name, accuracy, high) <= reward(name, accuracy, low)


@given(st.lists(ratios, max_size=30), st.floats(0, 2), st.floats(0, 1))
def test_lagrange_multiplier_follows_the_costs(
    seen: list[float], rate: float, limit: float
) -> None:
    shape = LagrangianReward(lam=1.0, rate=rate, limit=limit, lam_max=4.0, window=3)
    costs: list[float] = []
    expected = 1.0
    for ratio in seen:
        shape.episode_ended(ratio)
        costs.append(ratio - 1.0 if ratio > 1.0 else 0.0)
        last = costs[-3:]
        expected += rate * (sum(last) / len(last) - limit)
        expected = 4.0 if expected > 4.0 else 0.0 if expected < 0.0 else expected
        assert shape.lam == pytest.approx(expected, abs=1e-9)
        assert reward_of(shape, 0.5, 2.0) == pytest.approx(0.5 - expected, abs=1e-9)
    assert shape.fresh().lam == 1.0
    assert shape.fresh() == LagrangianReward(1.0, rate, limit, 4.0, 3)


def reward_of(shape: LagrangianReward, accuracy: float, ratio: float) -> float:
    return sum(shape.terms(accuracy, ratio).values())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mnasnet-soft", {"beta": 0.1}, r"beta is 0\.1; it must be .* at most 0"),
        ("mnasnet-hard", {"beta": math.nan}, "beta is nan"),
        ("tunas", {"beta": -math.inf}, "beta is -inf"),
        ("hard", {"penalty": 1.0}, r"penalty is 1\.0; .* at most 0"),
        ("amc", {"scale": 2.0}, r"scale is 2\.0; .* at least 100"),
        ("lagrangian", {"lam": 60.0}, r"lam is 60\.0; it must be at most lam_max = 50"),
        ("lagrangian", {"rate": -1.0}, r"rate is -1\.0"),
        ("lagrangian", {"window": 0}, "window is 0; it must be at least 1 episode"),
        ("lagrangian", {"window": math.inf}, "window is inf"),
        ("lagrangian", {"window": 2.5}, r"window is 2\.5"),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, float], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        make_reward(name, settings)
