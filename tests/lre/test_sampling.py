"""Random plans over the range of SynOps, or near one value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre.sampling import expected_fraction, plans_near, spanning_plans, spread_plans
from spear_gym.workload import Workload, load_workload


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


def largest_gap(evaluator: PlanEvaluator, plans: list[tuple[int, ...]]) -> float:
    """Between neighbours in expected SynOps, as a share of the range."""
    fractions = sorted(expected_fraction(evaluator, plan) for plan in plans)
    gaps = [right - left for left, right in pairwise(fractions)]
    return max(gaps) / (fractions[-1] - fractions[0])


def test_spanning_plans_begin_with_the_ends(evaluator: PlanEvaluator) -> None:
    plans = spanning_plans(evaluator, 12, seed=0)
    assert plans[:2] == [evaluator.space.smallest_counts(), (6, 8, 8)]
    assert len(set(plans)) == len(plans) == 12
    assert evaluator.runs == 0, "no simulation is needed"


@pytest.mark.parametrize("seed", range(3))
def test_spanning_plans_are_a_prefix_of_more_of_them(evaluator: PlanEvaluator, seed: int) -> None:
    longest = spanning_plans(evaluator, 24, seed)
    for count in (1, 2, 3, 5, 12):
        assert spanning_plans(evaluator, count, seed) == longest[:count]
    assert spanning_plans(evaluator, 12, seed + 7)[2:] != longest[2:12]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workload", ["tiny", "digits"])
def test_gaps_halve(tiny: Workload, workload: str, seed: int) -> None:
    """However early one stops, no stretch of the range is left out."""
    evaluator = PlanEvaluator(tiny if workload == "tiny" else load_workload("digits"))
    plans = spanning_plans(evaluator, 33, seed)
    for count, gap in ((3, 1 / 2), (5, 1 / 4), (9, 1 / 8), (17, 1 / 16), (33, 1 / 32)):
        # Half of the gap before the middle one at worst, and the few plans there may be no nearer.
        assert largest_gap(evaluator, plans[:count]) <= 2 * gap + 0.05, count


def test_spanning_plans_keep_the_limits(tiny: Workload) -> None:
    evaluator = PlanEvaluator(tiny, channel_multiple=4, min_channels=2, max_ratio=0.7)
    space = evaluator.space
    plans = spanning_plans(evaluator, 10, seed=0)
    assert plans[0] == space.smallest_counts()
    assert plans[1] == space.counts([0.0] * 3) == (6, 8, 8)
    can = [{space.count(i, r) for r in np.linspace(0, 0.7, 200)} for i in range(3)]
    assert all(count in can[i] for plan in plans for i, count in enumerate(plan))


def test_spanning_plans_of_a_tiny_space(toy: Workload) -> None:
    evaluator = PlanEvaluator(toy, channel_multiple=12)
    assert len(spanning_plans(evaluator, 40, seed=0)) == 4
    assert spanning_plans(evaluator, 1, seed=0) == [(1, 1)]


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
