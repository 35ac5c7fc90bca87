"""Can a workload tell plans apart? The spread between plans against the spread between seeds.

Random plans near one SynOps value are each fine-tuned with several seeds. Of those whose SynOps
*after* fine-tuning lie within 10 % of the median, the standard deviation of the plans' true
accuracies is compared with that of one plan's accuracy over seeds. Measured on the search split.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.lre.sampling import plans_near
from spear_gym.workers.tasks import run_tasks
from spear_gym.workload import Workload

TOLERANCE = 0.1


@dataclass(frozen=True)
class SpreadStudy:
    """The study of one workload.

    Attributes:
        workload: its name.
        fraction: SynOps fraction before fine-tuning, met within 10 %.
        plans: channels kept, of the plans at equal SynOps after fine-tuning.
        accuracies: after fine-tuning, ``[plan][seed]``.
        fractions: SynOps fractions after fine-tuning, ``[plan][seed]``.
        left_out: plans whose SynOps after fine-tuning were more than 10 % off the median.
        seed_std: pooled standard deviation over seeds of one plan.
        plan_std: standard deviation between plans, the seeds' share taken out.
    """

    workload: str
    fraction: float
    plans: tuple[Counts, ...]
    accuracies: tuple[tuple[float, ...], ...]
    fractions: tuple[tuple[float, ...], ...]
    left_out: int
    seed_std: float
    plan_std: float

    @property
    def ratio(self) -> float:
        """Spread between plans over spread between seeds."""
        return self.plan_std / self.seed_std

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "ratio": self.ratio}


def spread_study(
    workload: Workload,
    *,
    fraction: float = 0.3,
    plans: int = 12,
    seeds: int = 4,
    seed: int = 0,
    workers: int = 1,
    on_finetune: Callable[[], None] | None = None,
) -> SpreadStudy:
    """Runs the study.

    Args:
        workload: network and data.
        fraction: SynOps fraction before fine-tuning.
        plans: random plans near it.
        seeds: fine-tunes of each.
        seed: of the plans.
        workers: worker processes.
        on_finetune: called after each fine-tune.

    Raises:
        ValueError: with fewer than 3 plans at equal SynOps or 2 seeds.
    """
    if plans < 3 or seeds < 2:
        raise ValueError(f"plans is {plans} and seeds {seeds}; at least 3 and 2 are needed")
    evaluator = PlanEvaluator(workload)
    chosen = plans_near(evaluator, fraction, plans, seed)
    items = [(counts, run) for counts in chosen for run in range(seeds)]
    table = np.zeros((2, plans, seeds))
    with closing(run_tasks(_finetune, items, context=evaluator, workers=workers)) as running:
        for index, outcome in running:
            table[:, index // seeds, index % seeds] = outcome
            if on_finetune is not None:
                on_finetune()
    means = table[1].mean(1)
    near = np.abs(means / np.median(means) - 1) <= TOLERANCE
    if near.sum() < 3:
        raise ValueError(f"only {near.sum()} plans have equal SynOps after fine-tuning; draw more")
    accuracies = table[0][near]
    seed_variance = float(accuracies.var(axis=1, ddof=1).mean())
    # The variance of the plans' means holds a share of the seeds' variance.
    plan_variance = float(accuracies.mean(1).var(ddof=1)) - seed_variance / seeds
    return SpreadStudy(
        workload.name,
        fraction,
        tuple(counts for counts, keep in zip(chosen, near, strict=True) if keep),
        tuple(tuple(row) for row in accuracies.tolist()),
        tuple(tuple(row) for row in table[1][near].tolist()),
        int((~near).sum()),
        seed_variance**0.5,
        max(plan_variance, 0.0) ** 0.5,
    )


def _finetune(evaluator: PlanEvaluator, item: tuple[Counts, int]) -> tuple[float, float]:
    counts, seed = item
    tuned = evaluator.finetune(counts, seed=seed)
    return tuned.search.accuracy, tuned.search.synops / evaluator.reference.synops
