"""The control: random search."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from spear_gym.evaluation import EvaluationFailed

from .base import SearchSession


class RandomSearch:
    """Independent uniform prune ratios, U(0, max_ratio) for every group."""

    name = "random"

    def search(self, session: SearchSession, seed: int) -> None:
        """Draws plans until the budget is spent."""
        rng = np.random.default_rng(seed)
        space = session.evaluator.space
        while not session.done:
            with suppress(EvaluationFailed):
                session.submit(rng.uniform(0.0, space.largest_ratio, len(space)))
