"""Controls: random search, and one prune ratio for all layers."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from spear_gym.evaluation import EvaluationFailed

from .base import SearchSession

BISECTIONS = 12


class RandomSearch:
    """Independent uniform prune ratios, U(0, max_ratio) for every group."""

    name = "random"

    def search(self, session: SearchSession, seed: int) -> None:
        """Draws plans until the budget is spent."""
        rng = np.random.default_rng(seed)
        space = session.evaluator.space
        while not session.done:
            with suppress(EvaluationFailed):
                session.submit(rng.uniform(0.0, space.max_ratio, len(space)))


class Uniform:
    """The same prune ratio for all groups, the smallest that is predicted to keep the target.

    Bisection on the ratio; ends by itself after a dozen evaluations.
    """

    name = "uniform"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Bisects the ratio."""
        low, high = 0.0, session.evaluator.space.max_ratio
        if _feasible(session, low):
            return
        _feasible(session, high)
        for _ in range(BISECTIONS):
            if session.done:
                return
            middle = (low + high) / 2
            if _feasible(session, middle):
                high = middle
            else:
                low = middle


def _feasible(session: SearchSession, ratio: float) -> bool:
    """Whether one ratio for all groups keeps the target; no when it cannot be evaluated."""
    try:
        return session.submit([ratio] * len(session.evaluator.space)).feasible
    except EvaluationFailed:
        return False
