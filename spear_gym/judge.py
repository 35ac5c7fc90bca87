"""The SynOps target, candidates judged against it, and which of them is best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from spear_gym.degenerate import check_answers
from spear_gym.evaluation import Evaluation, EvaluationFailed, PlanEvaluator
from spear_gym.lre import (
    BoundedEstimator,
    FittedEstimator,
    LREError,
    NoEstimator,
    SynopsEstimator,
    bounded,
    estimate_of,
    load_estimator,
)
from spear_gym.lre.targets import TargetError as TargetError  # raised by fits, too
from spear_gym.lre.targets import check_fraction
from spear_gym.reward import AdaptiveReward, RewardShape


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored plan judged against the target.

    Attributes:
        evaluation: what was measured.
        predicted_fraction: SynOps fraction after fine-tuning, as the estimator predicts it.
        ratio: r = predicted fraction / target.
        terms: reward terms by name; the reward is their sum.
    """

    evaluation: Evaluation
    predicted_fraction: float
    ratio: float
    terms: dict[str, float]

    @property
    def reward(self) -> float:
        """Sum of the terms."""
        return sum(self.terms.values())

    @property
    def feasible(self) -> bool:
        """Whether the prediction keeps the target (r <= 1)."""
        return self.ratio <= 1.0

    @property
    def accuracy(self) -> float:
        """Accuracy on search before fine-tuning."""
        return self.evaluation.accuracy

    @property
    def cost(self) -> float:
        """max(0, r - 1), the constraint violation in the convention of safe RL."""
        return max(0.0, self.ratio - 1.0)

    def order(self) -> tuple[bool, float, float, tuple[int, ...]]:
        """Sort key, best first: feasible by accuracy then SynOps; infeasible by ratio."""
        counts = self.evaluation.counts
        if self.feasible:
            return (False, -self.accuracy, self.evaluation.synops, counts)
        return (True, self.ratio, self.evaluation.synops, counts)


def best_of(candidates: Iterable[Candidate]) -> Candidate | None:
    """The best plan (docs/definitions.md, "Best plan"), ``None`` when there is no candidate."""
    return min(candidates, key=Candidate.order, default=None)


@dataclass(frozen=True)
class Judge:
    """Turns evaluations into candidates.

    Attributes:
        target: largest SynOps fraction after fine-tuning.
        estimator: predicts that fraction.
        reward: the reward shape.
    """

    target: float
    estimator: SynopsEstimator
    reward: RewardShape

    @property
    def max_ratio(self) -> float:
        """The largest r."""
        return self.estimator.max_prediction / self.target

    @property
    def reward_bounds(self) -> tuple[float, float]:
        """Smallest and largest reward."""
        return self.reward.bounds(self.max_ratio)

    def __call__(self, evaluation: Evaluation) -> Candidate:
        """Judges one evaluation."""
        predicted = self.estimator.predict(evaluation.synops_fraction, evaluation.layer_fractions)
        ratio = predicted / self.target
        return Candidate(
            evaluation, predicted, ratio, self.reward.terms(evaluation.accuracy, ratio)
        )

    def conclude(self, evaluation: Evaluation) -> Candidate:
        """Judges the plan that an episode ended with; an adaptive reward then adapts to it."""
        candidate = self(evaluation)
        if isinstance(self.reward, AdaptiveReward):
            self.reward.episode_ended(candidate.ratio)
        return candidate

    def fresh(self) -> Judge:
        """The same judge, with an adaptive reward as it was at the beginning."""
        if isinstance(self.reward, AdaptiveReward):
            return replace(self, reward=self.reward.fresh())
        return self


def make_judge(
    evaluator: PlanEvaluator,
    estimator: SynopsEstimator,
    reward: RewardShape,
    *,
    target: float | None,
    target_synops: float | None = None,
    confidence: float | None = None,
    extrapolate: bool = False,
) -> Judge:
    """Checks a target and binds it to an estimator and a reward.

    Args:
        evaluator: gives the unpruned SynOps and the smallest reachable plan.
        estimator: predicts SynOps after fine-tuning.
        reward: the reward shape.
        target: fraction of the unpruned SynOps, in (0, 1].
        target_synops: absolute SynOps per sample instead.
        confidence: with which plans predicted to keep the target shall keep it: they are judged by
            the upper bound of their prediction (:func:`spear_gym.lre.bounded`). ``None``: by the
            prediction itself.
        extrapolate: allow a target outside the SynOps that the estimator was fitted to.

    Raises:
        TargetError: when the target is out of range or cannot be reached.
        LREError: when the estimator was fitted to something else, or to too few samples for a bound
            at this confidence.
        DegenerateError: when the unpruned network answers nothing.
    """
    check_answers(evaluator.workload, evaluator.reference)
    fraction = target_fraction(evaluator, target, target_synops)
    fit = estimate_of(estimator)
    if isinstance(fit, FittedEstimator):
        fit.check(evaluator.fingerprint())
        if not extrapolate:
            _check_range(fraction, fit)
    if confidence is not None:
        estimator = bounded(estimator, confidence)
    try:
        smallest = evaluator.evaluate(evaluator.space.smallest_counts())
    except EvaluationFailed as error:
        raise TargetError(f"the smallest plan cannot be evaluated: {error}") from error
    lowest = estimator.predict(smallest.synops_fraction, smallest.layer_fractions)
    if fraction < lowest:
        # Rounded up, so that the number shown can be reached.
        shown = math.ceil(lowest * 1e4) / 1e4
        raise TargetError(
            f"target is {fraction:g}, but the lowest that can be reached is {shown:.4f} (every "
            f"group pruned by {evaluator.space.limits}{_with_bound(estimator)}); raise the target "
            "or max_ratio"
        )
    return Judge(fraction, estimator, reward)


RANGE_MARGIN = 0.02
"""Targets may lie so far outside the fractions that an estimator was fitted to."""


def _check_range(target: float, estimator: FittedEstimator) -> None:
    if estimator.range is None:
        return
    low, high = estimator.range
    if not low - RANGE_MARGIN <= target <= high + RANGE_MARGIN:
        raise TargetError(
            f"target is {target:g}, outside the SynOps fractions {low:.3f} to {high:.3f} that the "
            "prediction was fitted to; choose a target inside, fit one with `spear lre`, or accept "
            "extrapolation (--extrapolate, extrapolate=True)"
        )


def _with_bound(estimator: SynopsEstimator) -> str:
    if not isinstance(estimator, BoundedEstimator):
        return ""
    return f", SynOps bounded at confidence {estimator.confidence:g}, which may be lowered"


def target_fraction(
    evaluator: PlanEvaluator, target: float | None, target_synops: float | None
) -> float:
    """The target as a fraction of the unpruned SynOps.

    Args:
        evaluator: gives the unpruned SynOps.
        target: the fraction itself, in (0, 1].
        target_synops: SynOps per sample instead.

    Raises:
        TargetError: when it is out of range, or not exactly one of the two is given.
    """
    unpruned = evaluator.reference.synops
    if (target is None) == (target_synops is None):
        raise TargetError("give either target (a fraction) or target_synops (absolute), not both")
    if unpruned <= 0:
        raise TargetError("the unpruned network has no synaptic operations on the search split")
    if target_synops is not None:
        if not (math.isfinite(target_synops) and 0 < target_synops <= unpruned):
            raise TargetError(
                f"target_synops is {target_synops:g}; it must lie in (0, {unpruned:.0f}], the "
                "SynOps per sample of the unpruned network"
            )
        target = target_synops / unpruned
    assert target is not None
    check_fraction(target)
    return float(target)


def make_estimator(
    evaluator: PlanEvaluator, lre: str | SynopsEstimator, shipped: FittedEstimator | None
) -> SynopsEstimator:
    """The estimator that a name or path stands for.

    Args:
        evaluator: whose fingerprint a fit must have.
        lre: ``"auto"`` (the workload's shipped fit), ``"none"``, a path to a fit, or an estimator.
        shipped: the workload's fit, if it has one.

    Raises:
        LREError: when there is no fit, or it belongs to something else.
    """
    if not isinstance(lre, str):
        return lre
    if lre == "none":
        return NoEstimator()
    if lre != "auto":
        return load_estimator(Path(lre))
    if shipped is None:
        raise LREError(
            f"there is no LRE fit for workload '{evaluator.workload.name}' with scoring "
            f"'{evaluator.scoring}' and criterion '{evaluator.criterion}'; fit one with "
            "`spear lre` or spear_gym.fit_lre, or choose no prediction with lre='none'"
        )
    return shipped
