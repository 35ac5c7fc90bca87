"""Random plans over the range of SynOps, or near one value."""

from __future__ import annotations

import numpy as np
import pytest

from spear_gym.evaluation import PlanEvaluator
from spear_gym.sampling import expected_fraction, plans_near, spread_plans
from spear_gym.workload import Workload


@pytest.fixture(scope="module")
def evaluator(tiny: Workload) -> PlanEvaluator:
    return PlanEvaluator(tiny)


def test_expected_fraction_by_hand(evaluator: PlanEvaluator) -> None:
    """Each layer's SynOps scale with the kept share of its inputs and of its outputs."""
    synops = evaluator.reference.layer_synops
    assert expected_fraction(evaluator, (6, 8, 8)) == pytest.approx(1.0)
    # conv1 reads the image (no SynOps); conv2 keeps 3/6 of its inputs and 4/8 of its outputs;
    # conv3 4/8 and 2/8; the classifier 2/8 of its inputs and all classes.
    expected = synops["conv2"] * 0.5 * 0.5 + synops["conv3"] * 0.5 * 0.25
    expected += synops["classifier"] * 0.25
    found = expected_fraction(evaluator, (3, 4, 2))
    assert found == pytest.approx(expected / evaluator.reference.synops)


def test_plans_are_spread_over_the_range(evaluator: PlanEvaluator) -> None:
    plans = spread_plans(evaluator, 12, seed=0)
    assert len(set(plans)) == 12
    lowest = expected_fraction(evaluator, evaluator.space.smallest_counts())
    fractions = [expected_fraction(evaluator, plan) for plan in plans]
    edges = np.linspace(lowest, 1.0, 13)
    inside = [
        left - 0.02 <= fraction <= right + 0.02
        for left, right, fraction in zip(edges, edges[1:], fractions, strict=False)
    ]
    assert sum(inside) >= 10, "few plans are so large or small that none is nearer"
    assert evaluator.runs == 0, "no simulation is needed"
    for plan in plans:
        for count, group in zip(plan, evaluator.space.groups, strict=True):
            assert 1 <= count <= group.channels


def test_same_seed_same_plans(evaluator: PlanEvaluator) -> None:
    assert spread_plans(evaluator, 8, seed=1) == spread_plans(evaluator, 8, seed=1)
    assert spread_plans(evaluator, 8, seed=1) != spread_plans(evaluator, 8, seed=2)


def test_excluded_plans_are_not_drawn(evaluator: PlanEvaluator) -> None:
    first = spread_plans(evaluator, 10, seed=0)
    assert set(spread_plans(evaluator, 10, seed=0, exclude=first)).isdisjoint(first)


def test_too_few_plans(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy, channel_multiple=12)
    assert {evaluator.space.count(0, ratio) for ratio in (0.0, 0.9)} == {12, 1}
    with pytest.raises(ValueError, match="too small for so many distinct plans"):
        spread_plans(evaluator, 5, seed=0)


def test_plans_near_one_value(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny)
    plans = plans_near(evaluator, 0.3, 8, seed=0, tolerance=0.1)
    assert len(set(plans)) == 8
    for plan in plans:
        scored = PlanEvaluator(tiny).evaluate(plan).synops_fraction
        assert abs(scored / 0.3 - 1) <= 0.1


def test_a_value_that_no_plan_has(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy, min_channels=11)
    with pytest.raises(ValueError, match=r"plans found within 1% of the SynOps fraction 0\.2"):
        plans_near(evaluator, 0.2, 1, seed=0, tolerance=0.01)
