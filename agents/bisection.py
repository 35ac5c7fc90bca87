"""Reaching the target by bisection on one knob, every trial paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spear_gym.evaluation import EvaluationFailed

from .base import SearchSession

BISECTIONS = 12
EVALUATIONS = BISECTIONS + 2
"""Evaluations that a bisection needs at most: both ends, and the trials between them."""

Ratios = Sequence[float] | np.ndarray
"""Prune ratios, one per group."""


def bisect(
    session: SearchSession, ratios_at: Callable[[float], Ratios], highest: float = 1.0
) -> None:
    """Finds the largest plan along a knob that is predicted to keep the target.

    Takes it that SynOps fall along the knob; a plan that cannot be evaluated counts as too large.
    Ends by itself, or when the session's budget is spent.

    Args:
        session: evaluates the trials.
        ratios_at: prune ratios at a position of the knob: least pruned at 0.
        highest: the knob's last position, most pruned.
    """
    low, high = 0.0, highest
    if _feasible(session, ratios_at(low)):
        return
    _feasible(session, ratios_at(high))
    for _ in range(BISECTIONS):
        if session.done:
            return
        middle = (low + high) / 2
        if _feasible(session, ratios_at(middle)):
            high = middle
        else:
            low = middle


def _feasible(session: SearchSession, ratios: Ratios) -> bool:
    try:
        return session.submit(ratios).feasible
    except EvaluationFailed:
        return False
