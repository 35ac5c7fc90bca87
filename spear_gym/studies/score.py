"""Score validity: does a plan's score say how accurate it is after fine-tuning?

Plans of all sizes, and plans near one SynOps value (where size explains nothing), are scored in all
three ways and really fine-tuned, and the scores are rank-correlated with the accuracy after
fine-tuning. Everything is measured on the search split.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.lre.sampling import plans_near, spread_plans
from spear_gym.simulation.simulate import SCORINGS, Scoring
from spear_gym.workers.tasks import run_tasks
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
        accuracy: after fine-tuning, see ``ScoreStudy.each``.
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
    """The study of one workload.

    Attributes:
        workload: its name.
        fraction: the one SynOps value.
        each: every score is compared with a fine-tune of its own, from the network so scored;
            otherwise all with one fine-tune from the default scoring's network.
        plans: every plan under every scoring.
        validity: the correlations.
    """

    workload: str
    fraction: float
    each: bool
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
    each: bool = False,
    workers: int = 1,
    on_plan: Callable[[tuple[ScoredPlan, ...]], None] | None = None,
) -> ScoreStudy:
    """Runs the study.

    Args:
        workload: network and data.
        fraction: the one SynOps value, a fraction, met within 10 % before fine-tuning.
        plans: plans near that value, and as many over all sizes.
        seed: of the plans and fine-tunes.
        criterion: ranks channels inside a layer.
        each: fine-tune from each scored network, three times as many fine-tunes.
        workers: worker processes.
        on_plan: progress callback.
    """
    if plans < 3:
        raise ValueError(f"plans is {plans}; a correlation needs at least 3")
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
        (counts, group, seed * 1000 + index, each)
        for group, members in chosen.items()
        for index, counts in enumerate(members)
    ]
    results: dict[int, tuple[ScoredPlan, ...]] = {}
    fresh = {
        scoring: PlanEvaluator(workload, scoring=scoring, criterion=criterion)
        for scoring in SCORINGS
    }
    with closing(run_tasks(_study_plan, items, context=fresh, workers=workers)) as running:
        for index, result in running:
            results[index] = result
            if on_plan is not None:
                on_plan(result)
    ordered = tuple(plan for i in sorted(results) for plan in results[i])
    validity = tuple(_validity(ordered, scoring, group) for group in chosen for scoring in SCORINGS)
    return ScoreStudy(workload.name, fraction, each, ordered, validity)


def _study_plan(
    evaluators: dict[Scoring, PlanEvaluator], item: tuple[Counts, str, int, bool]
) -> tuple[ScoredPlan, ...]:
    """One plan in all three ways, fine-tuned once or from each."""
    counts, group, seed, each = item
    default = next(iter(evaluators.values())).workload.scoring
    starts = SCORINGS if each else (default,)
    # Scored first: fine-tuning walks the plan too, and scoring would find it in memory.
    scored = {scoring: evaluator.evaluate(counts) for scoring, evaluator in evaluators.items()}
    tuned = {start: evaluators[start].finetune(counts, seed=seed) for start in starts}
    rows = []
    for scoring, evaluation in scored.items():
        outcome = tuned[scoring if each else default]
        rows.append(
            ScoredPlan(
                counts,
                group,
                scoring,
                evaluation.accuracy,
                evaluation.synops_fraction,
                outcome.search.accuracy,
                outcome.search.synops / evaluators[scoring].reference.synops,
                evaluation.seconds,
                outcome.seconds,
            )
        )
    return tuple(rows)


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
