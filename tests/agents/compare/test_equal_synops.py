"""Accuracy read at SynOps = target, against data whose answer is known and a plain regression."""

from __future__ import annotations

import numpy as np
import pytest

from spear_gym.agents.compare.equal_synops import Runs, at_target
from spear_gym.agents.compare.statistics import FEWEST_SEEDS


def made_up(seed: int, noise: float = 0.0) -> dict[str, Runs]:
    """Two agents of equal skill, one of which uses less of the target, and a worse one."""
    rng = np.random.default_rng(seed)
    found = {}
    for agent, level, middle in (("frugal", 0.8, 0.8), ("full", 0.8, 1.0), ("worse", 0.7, 1.0)):
        ratio = middle * np.exp(rng.uniform(-0.1, 0.1, 10))
        found[agent] = (ratio, level + 0.2 * np.log(ratio) + rng.normal(0, noise, 10))
    return found


def test_what_less_synops_cost_is_taken_out() -> None:
    runs = made_up(0)
    found = at_target(runs)
    assert found is not None
    assert found.slope == pytest.approx(0.2)
    assert {agent: moved.mean() for agent, moved in found.values.items()} == pytest.approx(
        {"frugal": 0.8, "full": 0.8, "worse": 0.7}
    )
    assert runs["frugal"][1].mean() < runs["full"][1].mean() - 0.02, "without it they differ"
    for agent, draws in found.drawn.items():
        assert draws == pytest.approx(found.values[agent].mean())


def test_equals_a_regression_with_one_constant_for_each_agent() -> None:
    runs = made_up(1, noise=0.02)
    found = at_target(runs)
    assert found is not None
    logs = np.concatenate([np.log(ratio) for ratio, _ in runs.values()])
    constants = np.kron(np.eye(3), np.ones((10, 1)))
    accuracy = np.concatenate([accuracy for _, accuracy in runs.values()])
    design = np.column_stack([constants, logs])
    *means, slope = np.linalg.lstsq(design, accuracy, rcond=None)[0]
    assert found.slope == pytest.approx(slope)
    assert [moved.mean() for moved in found.values.values()] == pytest.approx(means)


def test_a_better_agent_that_uses_more_does_not_make_the_slope() -> None:
    """Estimated inside agents: between these two all the difference is skill."""
    ratio = np.array([0.98, 0.99, 1.0, 1.01, 1.02])
    found = at_target({"good": (1.1 * ratio, np.full(5, 0.9)), "bad": (ratio, np.full(5, 0.5))})
    assert found is not None
    assert found.slope == pytest.approx(0.0, abs=1e-12)


def test_draws_cover_the_truth() -> None:
    hits = 0
    for seed in range(60):
        found = at_target(made_up(seed, noise=0.02), resamples=300)
        assert found is not None
        low, high = np.quantile(found.drawn["full"] - found.drawn["worse"], [0.025, 0.975])
        hits += low <= 0.1 <= high
    assert 51 <= hits <= 60


def test_what_cannot_be_read() -> None:
    runs = made_up(2)
    few = {"frugal": tuple(part[: FEWEST_SEEDS - 1] for part in runs["frugal"])}
    found = at_target(runs | few)
    assert found is not None
    assert set(found.values) == {"full", "worse"}
    nothing = {"full": (np.zeros(10), runs["full"][1])}
    found = at_target(runs | nothing)
    assert found is not None
    assert set(found.values) == {"frugal", "worse"}
    assert at_target(few) is None
    assert at_target({"rule": (np.full(10, 0.9), np.full(10, 0.5))}) is None
    assert at_target({}) is None
