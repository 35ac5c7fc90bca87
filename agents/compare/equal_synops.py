"""Accuracy at equal SynOps: what the runs of a task would have reached right at the target.

Runs end at different SynOps, and those with more SynOps are more accurate. An analysis of
covariance takes that out, within one task:

    accuracy of run j of agent a = m_a + s * log(SynOps fraction_aj / target) + rest

The slope s is common to all agents and estimated inside them, so it is not moved by which agent is
the better one; m_a is agent a's accuracy read at SynOps = target. It is a model: straight in the
logarithm, the same slope for all, and an agent that stays far from the target is read outside what
it did. It was not part of any protocol here; reports call it post hoc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .statistics import FEWEST_SEEDS, RESAMPLES, Scores

Runs = tuple[Scores, Scores]
"""SynOps over the target, and accuracy, of an agent's runs on a task, each ``(runs,)``."""


@dataclass(frozen=True)
class AtTarget:
    """One task at equal SynOps.

    Attributes:
        slope: accuracy per unit of log SynOps; a hundredth of it is the gain for 1 % more SynOps.
        values: by agent, each run's accuracy moved along the slope to the target, ``(runs,)``.
        drawn: by agent, the mean of these in each bootstrap sample, ``(resamples,)``. All agents'
            runs are drawn anew and the slope is fitted to them, so draws of two agents belong
            together.
    """

    slope: float
    values: Mapping[str, Scores]
    drawn: Mapping[str, Scores]


def at_target(
    runs: Mapping[str, Runs], *, seed: int = 0, resamples: int = RESAMPLES
) -> AtTarget | None:
    """Fits one task.

    Args:
        runs: by agent. Agents with fewer than :data:`FEWEST_SEEDS` runs, or with a network that
            has no SynOps at all, are left out.
        seed: of the bootstrap.
        resamples: number of its samples.

    Returns:
        ``None`` when no agent is left, or no agent's runs differ in SynOps.
    """
    rng = np.random.default_rng(seed)
    logs, accuracies, drawn_logs, drawn_accuracies = {}, {}, {}, {}
    for agent, (ratio, accuracy) in runs.items():
        if (count := len(ratio)) < FEWEST_SEEDS or ratio.min() <= 0:
            continue
        logs[agent], accuracies[agent] = np.log(ratio), accuracy
        chosen = rng.integers(count, size=(resamples, count))
        drawn_logs[agent], drawn_accuracies[agent] = logs[agent][chosen], accuracy[chosen]
    if not any(np.ptp(x) > 0 for x in logs.values()):
        return None
    slope = float(_slope(logs, accuracies))
    slopes = _slope(drawn_logs, drawn_accuracies)
    return AtTarget(
        slope,
        {agent: accuracies[agent] - slope * logs[agent] for agent in logs},
        {a: drawn_accuracies[a].mean(-1) - slopes * drawn_logs[a].mean(-1) for a in logs},
    )


def _slope(logs: Mapping[str, Scores], accuracies: Mapping[str, Scores]) -> Scores:
    """Least squares inside agents, over the last axis; 0 where a draw has no spread at all."""
    products, squares = np.zeros(()), np.zeros(())
    for agent, x in logs.items():
        away = x - x.mean(-1, keepdims=True)
        products = products + (away * accuracies[agent]).sum(-1)
        squares = squares + (away**2).sum(-1)
    return np.asarray(products / np.where(squares > 0, squares, np.inf), np.float64)
