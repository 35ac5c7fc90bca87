"""What `env.render()` shows of an episode."""

from __future__ import annotations

from spear_gym.evaluation import Counts, PlanEvaluator
from spear_gym.judge import Judge
from spear_gym.report.plan_view import LayerView, PlanView


def view_of(evaluator: PlanEvaluator, judge: Judge, counts: Counts) -> PlanView:
    """A plan in the making.

    Args:
        evaluator: measured the prefixes; it is asked for nothing new.
        judge: the target, and the prediction once all groups are decided.
        counts: channels kept by the groups decided so far.
    """
    measured = evaluator.prefix(counts)
    unpruned = evaluator.reference.synops
    layers = []
    for index, group in enumerate(evaluator.space.groups):
        at = evaluator.prefix(counts[:index]) if index <= len(counts) else None
        layers.append(
            LayerView(
                group.name,
                group.channels,
                counts[index] if index < len(counts) else None,
                None if at is None else at.input_rate,
            )
        )
    final = evaluator.known.get(counts)
    candidate = None if final is None else judge(final)
    return PlanView(
        workload=evaluator.workload.name,
        layers=tuple(layers),
        committed=measured.synops_committed / unpruned,
        still_open=measured.synops_open / unpruned,
        target=judge.target,
        predicted=None if candidate is None else candidate.predicted_fraction,
        accuracy=None if candidate is None else candidate.accuracy,
        reward=None if candidate is None else candidate.reward,
        metric=evaluator.workload.objective.metric_name,
    )
