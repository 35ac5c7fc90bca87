"""Controls: random search, and one prune ratio for all layers."""

from __future__ import annotations

import numpy as np

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
            session.submit(rng.uniform(0.0, space.max_ratio, len(space)))


class Uniform:
    """The same prune ratio for all groups, the smallest that is predicted to keep the target.

    Bisection on the ratio; ends by itself after a dozen evaluations.
    """

    name = "uniform"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Bisects the ratio."""
        space = session.evaluator.space
        low, high = 0.0, space.max_ratio
        if session.submit([low] * len(space)).feasible:
            return
        session.submit([high] * len(space))
        for _ in range(BISECTIONS):
            if session.done:
                return
            middle = (low + high) / 2
            if session.submit([middle] * len(space)).feasible:
                high = middle
            else:
                low = middle
