"""The ``info`` of a step: the same keys at every step, numbers and arrays of numbers only.

The numbers are NumPy's, which TorchRL asks for their dtype. There is no bool among them, for which
Gymnasium's vectors make an array of objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spear_gym.evaluation import Counts, EvaluationFailed, FailureKind
from spear_gym.judge import Candidate
from spear_gym.reward import RewardError, RewardShape

UNKNOWN = -1
"""Stands for what is not known yet: a group before the first step, figures before the last."""

KINDS: tuple[FailureKind, ...] = ("output", "memory", "refit")

FAILURES = ("none", "output not finite", "out of memory", "no solution of the refit")
"""Why a plan could not be evaluated; ``info["failure"]`` is the place in this list."""


def failure_code(error: EvaluationFailed) -> int:
    """The place in :data:`FAILURES` of what made an evaluation fail."""
    return 1 + KINDS.index(error.kind)


def term_names(reward: RewardShape) -> tuple[str, ...]:
    """Names of a reward's terms, in order, found by asking on both sides of the target."""
    asked = ((1.0, 0.5), (1.0, 1.0), (0.5, 2.0))
    return tuple(dict.fromkeys(name for at in asked for name in reward.terms(*at)))


class Infos:
    """Makes the infos of one environment.

    Args:
        groups: steps of an episode, L.
        target: the target fraction.
        reward: gives the names of the terms.
    """

    def __init__(self, groups: int, target: float, reward: RewardShape) -> None:
        self.reward_term_names = term_names(reward)
        self._groups = groups
        self._target = target

    def __call__(
        self, counts: Counts = (), applied: float = UNKNOWN, failure: int = 0
    ) -> dict[str, Any]:
        """The info of a step that ends with no score.

        Args:
            counts: channels kept by the groups decided so far; none right after a reset.
            applied: the prune ratio that was applied.
            failure: place in :data:`FAILURES`.
        """
        plan = np.full(self._groups, UNKNOWN, dtype=np.int64)
        plan[: len(counts)] = counts
        unknown = np.float64(UNKNOWN)
        return {
            "group": np.int64(len(counts) - 1),
            "applied_action": np.array([applied], dtype=np.float32),
            "channels_kept": np.int64(counts[-1] if counts else UNKNOWN),
            "plan": plan,
            "target": np.float64(self._target),
            "accuracy": unknown,
            "synops": unknown,
            "synops_fraction": unknown,
            "predicted_synops_fraction": unknown,
            "params_fraction": unknown,
            "reward_terms": np.zeros(len(self.reward_term_names)),
            "cost": np.float64(0.0),
            "evaluation_id": np.int64(UNKNOWN),
            "cached": np.int64(0),
            "failure": np.int64(failure),
        }

    def scored(self, candidate: Candidate, number: int, cached: bool) -> dict[str, Any]:
        """What the last step knows beside :meth:`__call__`.

        Args:
            candidate: the judged plan.
            number: of its evaluation.
            cached: whether it had been evaluated before.
        """
        evaluation = candidate.evaluation
        return {
            "accuracy": np.float64(evaluation.accuracy),
            "synops": np.float64(evaluation.synops),
            "synops_fraction": np.float64(evaluation.synops_fraction),
            "predicted_synops_fraction": np.float64(candidate.predicted_fraction),
            "params_fraction": np.float64(evaluation.params_fraction),
            "reward_terms": self._terms(candidate),
            "cost": np.float64(candidate.cost),
            "evaluation_id": np.int64(number),
            "cached": np.int64(cached),
        }

    def _terms(self, candidate: Candidate) -> np.ndarray:
        for name in candidate.terms:
            if name not in self.reward_term_names:
                raise RewardError(
                    f"the reward has a term '{name}' for this plan only; let terms() name the "
                    f"same ones for every plan (so far: {', '.join(self.reward_term_names)})"
                )
        return np.array([candidate.terms.get(name, 0.0) for name in self.reward_term_names])
