"""Targets, and which plan is the best."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st

from spear_gym.boundary.files import write_json
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import (
    Candidate,
    Judge,
    TargetError,
    best_of,
    make_estimator,
    make_judge,
    target_fraction,
)
from spear_gym.lre import (
    BoundedEstimator,
    FittedEstimator,
    LinearEstimator,
    LREError,
    NoEstimator,
    Quality,
    bounded,
    fit_line,
)
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload, measure

TAR = TargetAwareReward()
QUALITY = Quality(1.0, 0.0, 0.0, 3)


@pytest.fixture(scope="module")
def evaluator(toy: Workload) -> PlanEvaluator:
    return PlanEvaluator(toy)


def line(weight: float, intercept: float, **fingerprint: str) -> LinearEstimator:
    return LinearEstimator(weight, intercept, fingerprint, QUALITY)


# The best plan.

# Few values, so that ties are common.
figures = st.tuples(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from([10.0, 30.0, 50.0, 80.0, 100.0]),
)


def slow_best(plans: list[tuple[float, float, float]]) -> set[tuple[float, float]]:
    """(accuracy, SynOps) of the best plans among (accuracy, SynOps, r), rule by rule."""
    feasible = [p for p in plans if p[2] <= 1]
    if feasible:
        highest = max(p[0] for p in feasible)
        left = [p for p in feasible if p[0] == highest]
        fewest = min(p[1] for p in left)
        return {p[:2] for p in left if p[1] == fewest}
    smallest = min(p[2] for p in plans)
    return {p[:2] for p in plans if p[2] == smallest}


@given(
    st.lists(figures, min_size=1, max_size=12, unique_by=lambda plan: plan[0]),
    st.sampled_from([0.05, 0.1, 0.3, 0.55, 1.0]),
    st.sampled_from([(1.0, 0.0), (0.8, 0.1), (1.2, -0.05)]),
    st.sampled_from([0.0, 5.0]),
)
def test_best_plan_equals_the_slow_rule(
    plans: list[tuple[tuple[int, int], float, float]],
    target: float,
    coefficients: tuple[float, float],
    lam: float,
) -> None:
    judge = Judge(target, line(*coefficients), TargetAwareReward(lam))
    candidates = [judge(toys.made_up(c, q, s, unpruned=100.0)) for c, q, s in plans]
    limit = max(1.0, sum(coefficients))
    judged = [
        (q, s, min(max(coefficients[0] * s / 100.0 + coefficients[1], 0.0), limit) / target)
        for _, q, s in plans
    ]
    best = best_of(candidates)
    assert best is not None
    assert (best.accuracy, best.evaluation.synops) in slow_best(judged)
    assert best.feasible == any(r <= 1 for *_, r in judged)
    assert best_of(reversed(candidates)) == best, "the order of finding does not matter"


def test_no_candidate_no_best() -> None:
    assert best_of([]) is None


def test_candidate_figures() -> None:
    judge = Judge(0.4, line(0.5, 0.3), TargetAwareReward(2.0))
    candidate = judge(toys.made_up((1, 2), 0.75, 60.0, unpruned=100.0))
    # 0.5 * 0.6 + 0.3 = 0.6 of the unpruned SynOps, one and a half times the target.
    assert candidate.predicted_fraction == pytest.approx(0.6)
    assert candidate.ratio == pytest.approx(1.5)
    assert candidate.cost == pytest.approx(0.5)
    assert candidate.reward == pytest.approx(0.75 - 2.0 * 0.5)
    assert candidate.reward == sum(candidate.terms.values())
    assert not candidate.feasible


def test_target_met_exactly_is_feasible() -> None:
    judge = Judge(0.3, NoEstimator(), TAR)
    candidate = judge(toys.made_up((1,), 0.5, 0.3, unpruned=1.0))
    assert candidate.feasible
    assert candidate.cost == 0.0
    assert isinstance(candidate, Candidate)


@pytest.mark.parametrize(("coefficients", "largest"), [((0.9, 0.05), 1.0), ((1.1, 0.1), 1.2)])
def test_reward_bounds(coefficients: tuple[float, float], largest: float) -> None:
    judge = Judge(0.25, line(*coefficients), TAR)
    assert judge.reward_bounds == (pytest.approx(-5.0 * (largest / 0.25 - 1)), 1.0)
    worst = judge(toys.made_up((1,), 0.0, 1000.0, unpruned=100.0))
    assert worst.reward == judge.reward_bounds[0]


# Targets.


@pytest.mark.parametrize("target", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_target_outside_its_range(evaluator: PlanEvaluator, target: float) -> None:
    with pytest.raises(TargetError, match=r"target is .*; it must lie in \(0, 1\]"):
        make_judge(evaluator, NoEstimator(), TAR, target=target)


@pytest.mark.parametrize("synops", [0.0, -1.0, 1e12, math.nan])
def test_target_synops_outside_their_range(evaluator: PlanEvaluator, synops: float) -> None:
    unpruned = f"{evaluator.reference.synops:.0f}"
    with pytest.raises(TargetError, match=rf"target_synops is .*\(0, {unpruned}\]"):
        make_judge(evaluator, NoEstimator(), TAR, target=None, target_synops=synops)


@pytest.mark.parametrize("both", [(None, None), (0.3, 1000.0)])
def test_exactly_one_target(
    evaluator: PlanEvaluator, both: tuple[float | None, float | None]
) -> None:
    with pytest.raises(TargetError, match=r"either target .* or target_synops"):
        make_judge(evaluator, NoEstimator(), TAR, target=both[0], target_synops=both[1])


def test_target_synops_are_a_fraction_of_the_unpruned(toy: Workload) -> None:
    unpruned = measure(toy, toy.graph.model, "search").synops
    evaluator = PlanEvaluator(toy)
    assert target_fraction(evaluator, None, unpruned / 4) == 0.25
    assert target_fraction(evaluator, None, unpruned) == 1.0
    assert (
        make_judge(evaluator, NoEstimator(), TAR, target=None, target_synops=unpruned).target == 1
    )


@pytest.mark.parametrize("estimator", [NoEstimator(), None], ids=["none", "line"])
def test_lowest_target_is_said_and_can_be_used(toy: Workload, estimator: object) -> None:
    evaluator = PlanEvaluator(toy, min_channels=5)
    chosen = estimator or LinearEstimator(0.9, 0.05, evaluator.fingerprint(), QUALITY)
    smallest = evaluator.evaluate((5, 5)).synops_fraction
    lowest = chosen.predict(smallest)  # type: ignore[attr-defined]
    make_judge(evaluator, chosen, TAR, target=lowest)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="at least 5 channels kept") as error:
        make_judge(evaluator, chosen, TAR, target=0.9 * lowest)  # type: ignore[arg-type]
    shown = re.search(r"lowest that can be reached is ([\d.]+)", str(error.value))
    assert shown is not None
    assert float(shown[1]) == pytest.approx(lowest, abs=1e-4)
    make_judge(evaluator, chosen, TAR, target=float(shown[1]))  # type: ignore[arg-type]


def test_network_that_cannot_be_evaluated() -> None:
    workload = toys.overflowing()
    evaluator = PlanEvaluator(workload, scoring="plain", min_channels=12)
    with pytest.raises(TargetError, match=r"smallest plan cannot be evaluated: .*not finite"):
        make_judge(evaluator, NoEstimator(), TAR, target=0.5)


# Estimators.


def test_fit_of_another_network_is_refused(evaluator: PlanEvaluator) -> None:
    foreign = {**evaluator.fingerprint(), "scoring": "plain"}
    with pytest.raises(LREError, match="scoring: fitted under plain, used under recalibrated"):
        make_judge(evaluator, LinearEstimator(1.0, 0.0, foreign, QUALITY), TAR, target=0.5)


def test_estimator_by_name(evaluator: PlanEvaluator, tmp_path: Path) -> None:
    fit = LinearEstimator(0.9, 0.05, evaluator.fingerprint(), QUALITY)
    assert make_estimator(evaluator, "none", fit) == NoEstimator()
    assert make_estimator(evaluator, "auto", fit) is fit
    assert make_estimator(evaluator, fit, None) is fit
    write_json(tmp_path / "fit.json", fit.to_json())
    assert make_estimator(evaluator, str(tmp_path / "fit.json"), None) == fit
    with pytest.raises(LREError, match="no LRE fit for workload 'toy' with scoring 'recalibrated'"):
        make_estimator(evaluator, "auto", None)


# How sure, and how far.


@pytest.fixture(scope="module")
def sampled(evaluator: PlanEvaluator) -> FittedEstimator:
    """A fit between 0.2 and 0.7."""
    rng = np.random.default_rng(0)
    scored = rng.uniform(0.2, 0.7, 20)
    found = (scored + rng.normal(0, 0.01, 20)).clip(0.2, 0.7)
    pairs = zip(scored.tolist(), found.tolist(), strict=True)
    return fit_line([toys.sample(*pair) for pair in pairs], evaluator.fingerprint())


def test_a_confidence_judges_by_the_bound(
    evaluator: PlanEvaluator, sampled: FittedEstimator
) -> None:
    plain = make_judge(evaluator, sampled, TAR, target=0.5)
    sure = make_judge(evaluator, sampled, TAR, target=0.5, confidence=0.95)
    low = make_judge(evaluator, sampled, TAR, target=0.5, confidence=0.5)
    assert plain == low
    assert isinstance(sure.estimator, BoundedEstimator)
    assert sure == make_judge(evaluator, bounded(sampled, 0.95), TAR, target=0.5)
    plan = evaluator.evaluate((8, 8))
    assert plain(plan).ratio < sure(plan).ratio
    assert sure.reward_bounds[0] == pytest.approx(-5.0 * (sure.estimator.max_prediction / 0.5 - 1))
    with pytest.raises(LREError, match=r"has 20 samples, .* confidence 0\.99 needs 99"):
        make_judge(evaluator, sampled, TAR, target=0.5, confidence=0.99)
    with pytest.raises(LREError, match="lre 'none'"):
        make_judge(evaluator, NoEstimator(), TAR, target=0.5, confidence=0.95)


@pytest.mark.parametrize(
    "way", [lambda fit: fit, lambda fit: bounded(fit, 0.9)], ids=["fit", "bound"]
)
def test_range_and_network_of_a_fit_are_checked_behind_its_bound_too(
    evaluator: PlanEvaluator, toy: Workload, sampled: FittedEstimator, way: Any
) -> None:
    low, high = sampled.range or (0.0, 0.0)
    for target in (low - 0.021, high + 0.021):
        with pytest.raises(TargetError, match=rf"fractions {low:.3f} to {high:.3f} .*--extrapol"):
            make_judge(evaluator, way(sampled), TAR, target=target)
        judge = make_judge(evaluator, way(sampled), TAR, target=target, extrapolate=True)
        assert judge.target == target
    for target in (low - 0.019, high + 0.019):
        make_judge(evaluator, way(sampled), TAR, target=target)
    other = PlanEvaluator(toy, scoring="plain")
    with pytest.raises(LREError, match="scoring: fitted under recalibrated, used under plain"):
        make_judge(other, way(sampled), TAR, target=0.5)
