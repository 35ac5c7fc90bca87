"""Score validity: does a plan's score say how accurate it is after fine-tuning?

For plans of all sizes, and for plans near one SynOps value (where size explains nothing), each is
scored in all three ways, fine-tuned from each scored network, and the scores are rank-correlated
with the accuracy after fine-tuning. Everything is measured on the search split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.sampling import plans_near, spread_plans
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.tasks import run_tasks
from spear_gym.workload import Workload

VALID = 0.5
"""Below this Spearman correlation at fixed SynOps, reports say that they compare proxies."""


@dataclass(frozen=True, slots=True)
class ScoredPlan:
    """One plan under one scoring.

    Attributes:
        counts: channels kept per group.
        group: ``"fixed"`` (near one SynOps value) or ``"spread"`` (all sizes).
        scoring: the way it was scored.
        score: accuracy before fine-tuning.
        synops_fraction: before fine-tuning.
        accuracy: after fine-tuning from the network so scored.
        finetuned_fraction: SynOps fraction after it.
        score_seconds: time of scoring.
        finetune_seconds: time of fine-tuning.
    """

    counts: Counts
    group: str
    scoring: Scoring
    score: float
    synops_fraction: float
    accuracy: float
    finetuned_fraction: float
    score_seconds: float
    finetune_seconds: float


@dataclass(frozen=True, slots=True)
class Validity:
    """Rank correlation of a score with accuracy after fine-tuning.

    Attributes:
        scoring: the way of scoring.
        group: which plans.
        plans: how many.
        spearman: correlation.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        seconds: median scoring time of a plan.
        mean_accuracy: mean accuracy after fine-tuning from networks so scored.
    """

    scoring: Scoring
    group: str
    plans: int
    spearman: float
    low: float
    high: float
    seconds: float
    mean_accuracy: float


@dataclass(frozen=True)
class ScoreStudy:
    """The study of one workload."""

    workload: str
    fraction: float
    plans: tuple[ScoredPlan, ...]
    validity: tuple[Validity, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def score_study(
    workload: Workload,
    *,
    fraction: float = 0.3,
    plans: int = 30,
    seed: int = 0,
    criterion: str = "l1",
    workers: int = 1,
    on_plan: Callable[[ScoredPlan], None] | None = None,
) -> ScoreStudy:
    """Runs the study.

    Args:
        workload: network and data.
        fraction: the one SynOps value, a fraction, met within 10 % before fine-tuning.
        plans: plans near that value, and as many over all sizes.
        seed: of the plans and fine-tunes.
        criterion: ranks channels inside a layer.
        workers: worker processes.
        on_plan: progress callback.
    """
    evaluators = {
        scoring: PlanEvaluator(workload, scoring=scoring, criterion=criterion)
        for scoring in SCORINGS
    }
    recalibrated = evaluators["recalibrated"]
    chosen = {
        "fixed": plans_near(recalibrated, fraction, plans, seed),
        "spread": spread_plans(recalibrated, plans, seed + 1),
    }
    items = [
        (counts, group, scoring, seed * 1000 + index)
        for group, members in chosen.items()
        for index, counts in enumerate(members)
        for scoring in SCORINGS
    ]
    results: dict[int, ScoredPlan] = {}
    fresh = {
        scoring: PlanEvaluator(workload, scoring=scoring, criterion=criterion)
        for scoring in SCORINGS
    }
    for index, result in run_tasks(_study_plan, items, context=fresh, workers=workers):
        results[index] = result
        if on_plan is not None:
            on_plan(result)
    ordered = tuple(results[i] for i in sorted(results))
    validity = tuple(_validity(ordered, scoring, group) for group in chosen for scoring in SCORINGS)
    return ScoreStudy(workload.name, fraction, ordered, validity)


def _study_plan(
    evaluators: dict[Scoring, PlanEvaluator], item: tuple[Counts, str, Scoring, int]
) -> ScoredPlan:
    counts, group, scoring, seed = item
    evaluator = evaluators[scoring]
    evaluation = evaluator.evaluate(counts)
    tuned = evaluator.finetune(counts, seed=seed)
    return ScoredPlan(
        counts,
        group,
        scoring,
        evaluation.accuracy,
        evaluation.synops_fraction,
        tuned.search.accuracy,
        tuned.search.synops / evaluator.reference.synops,
        evaluation.seconds,
        tuned.seconds,
    )


def _validity(plans: tuple[ScoredPlan, ...], scoring: Scoring, group: str) -> Validity:
    from scipy.stats import bootstrap, spearmanr

    mine = [p for p in plans if p.scoring == scoring and p.group == group]
    score = np.array([p.score for p in mine])
    accuracy = np.array([p.accuracy for p in mine])

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return 0.0
        return float(spearmanr(x, y).statistic)

    interval = bootstrap(
        (score, accuracy),
        correlation,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Validity(
        scoring,
        group,
        len(mine),
        correlation(score, accuracy),
        float(interval.low),
        float(interval.high),
        float(np.median([p.score_seconds for p in mine])),
        float(accuracy.mean()),
    )
