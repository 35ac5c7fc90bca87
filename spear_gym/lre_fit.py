"""Fitting LRE: random plans, really fine-tuned."""

from __future__ import annotations

from collections.abc import Callable

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.lre import LinearEstimator, LREError, Sample, fit_line
from spear_gym.sampling import spread_plans
from spear_gym.tasks import run_tasks
from spear_gym.training import TrainingDiverged

OnSample = Callable[[Sample | None], None]
"""Called as samples come in; ``None`` for one whose fine-tune diverged."""


def fit_lre(
    evaluator: PlanEvaluator,
    *,
    samples: int = 40,
    held_out: int = 0,
    seed: int = 0,
    workers: int = 1,
    on_sample: OnSample | None = None,
) -> LinearEstimator:
    """Fine-tunes random plans with the final recipe and fits SynOps after on SynOps before.

    Args:
        evaluator: scores and fine-tunes; the fit carries its fingerprint.
        samples: plans to fit to.
        held_out: further plans to judge the fit on.
        seed: of the plans and the fine-tunes.
        workers: worker processes.
        on_sample: progress callback.

    Raises:
        LREError: when too few samples are left to fit a line.
    """
    if samples < 3 or held_out < 0:
        raise LREError(f"samples is {samples} and held_out {held_out}; at least 3 and 0 are needed")
    plans = spread_plans(evaluator, samples, seed)
    if held_out:
        plans += spread_plans(evaluator, held_out, seed + 1, exclude=plans)
    done: dict[int, Sample] = {}
    items = [(counts, seed * 1000 + index) for index, counts in enumerate(plans)]
    for index, sample in run_tasks(sample_plan, items, context=evaluator, workers=workers):
        if sample is not None:
            done[index] = sample
        if on_sample is not None:
            on_sample(sample)
    fitted = [done[i] for i in range(samples) if i in done]
    rest = [done[i] for i in range(samples, len(plans)) if i in done]
    return fit_line(fitted, evaluator.fingerprint(), rest)


def sample_plan(evaluator: PlanEvaluator, item: tuple[Counts, int]) -> Sample | None:
    """Scores and fine-tunes one plan; ``None`` when the fine-tune diverged."""
    counts, seed = item
    scored = evaluator.evaluate(counts).synops_fraction
    try:
        tuned = evaluator.finetune(counts, seed=seed)
    except TrainingDiverged:
        return None
    fraction = tuned.search.synops / evaluator.reference.synops
    return Sample(counts, scored, fraction, tuned.search.accuracy, tuned.seconds)
