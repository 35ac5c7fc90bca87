"""Reward shapes: how accuracy and predicted SynOps become one number.

Every shape sees the accuracy Q in [0, 1] and r = predicted SynOps fraction / target, and declares
the smallest and largest reward it can give.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from spear_gym.workload import unknown


class RewardError(ValueError):
    """A reward is unknown, or its settings are."""


class RewardShape(Protocol):
    """The interface of reward shapes."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """Named terms whose sum is the reward.

        Args:
            accuracy: Q in [0, 1].
            ratio: r = predicted SynOps fraction / target, >= 0.
        """
        ...

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """Smallest and largest reward when r lies in [0, max_ratio]."""
        ...


@dataclass(frozen=True, slots=True)
class TargetAwareReward:
    """SPEAR's target-aware reward (TAR), *reconstructed*.

        R = Q - lambda * max(0, r - 1)

    Q is the accuracy on the search split, r the predicted SynOps fraction over the target. The
    paper's equations 4-6 were not available; this is the simplest soft penalty of the form that
    its reviews describe.

    Range: [-lambda * max(0, r_max - 1), 1], r_max the largest r.

    Attributes:
        lam: lambda, reward lost per unit of r above 1.
    """

    lam: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise RewardError(f"lam is {self.lam}; it must be a finite number of at least 0")

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "tar"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy`` and ``synops_penalty`` (never positive)."""
        return {"accuracy": accuracy, "synops_penalty": -self.lam * max(0.0, ratio - 1.0)}

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """[-lambda * max(0, max_ratio - 1), 1]."""
        return -self.lam * max(0.0, max_ratio - 1.0), 1.0


REWARDS: dict[str, Callable[..., RewardShape]] = {"tar": TargetAwareReward}


def make_reward(
    reward: str | RewardShape, settings: Mapping[str, Any] | None = None
) -> RewardShape:
    """A reward shape by name, or the given one.

    Args:
        reward: a name in :data:`REWARDS` or a shape.
        settings: keyword arguments of the named shape.

    Raises:
        RewardError: for an unknown name or setting.
    """
    if not isinstance(reward, str):
        if settings:
            raise RewardError("reward settings are for rewards given by name")
        return reward
    if reward not in REWARDS:
        raise RewardError(unknown("reward", reward, tuple(REWARDS)))
    known = tuple(inspect.signature(REWARDS[reward]).parameters)
    for key in settings or {}:
        if key not in known:
            raise RewardError(unknown(f"setting of reward '{reward}'", key, known))
    return REWARDS[reward](**(settings or {}))
