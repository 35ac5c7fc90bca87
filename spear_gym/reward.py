"""Reward shapes: how accuracy and predicted SynOps become one number.

Every shape sees Q in [0, 1], the accuracy or the workload's own metric, and r = predicted SynOps
fraction / target, and declares the smallest and largest reward it can give.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from spear_gym.boundary.text import shown, unknown


class RewardError(ValueError):
    """A reward is unknown, or its settings are."""


class RewardShape(Protocol):
    """The interface of reward shapes."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        ...

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """Named terms whose sum is the reward, of the same names for every plan.

        Args:
            accuracy: Q in [0, 1].
            ratio: r = predicted SynOps fraction / target, >= 0.
        """
        ...

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """Smallest and largest reward when r lies in [0, max_ratio]."""
        ...


@runtime_checkable
class AdaptiveReward(RewardShape, Protocol):
    """A shape that changes as episodes end."""

    def episode_ended(self, ratio: float) -> None:
        """Adapts to an episode whose plan has this r."""
        ...

    def fresh(self) -> RewardShape:
        """The same shape as it was at the beginning."""
        ...


SMALLEST_RATIO = 0.01
"""Shapes with a power or a logarithm of r count it as at least this."""

LARGEST = 1e6
"""The largest weight, since rewards are told from one another in float32."""

SMALLEST_EXPONENT = -10.0
"""With it the factor of a shape with a power of r reaches 1e20."""


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
        _check_at_least(0, "lam", self.lam)

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


@dataclass(frozen=True, slots=True)
class MnasNetSoftReward:
    """MnasNet's soft constraint (Tan et al., CVPR 2019, equations 2 and 3, alpha = beta).

        R = Q * r^beta

    r counts as at least :data:`SMALLEST_RATIO`, which keeps R finite.

    Range: [0, SMALLEST_RATIO^beta].

    Attributes:
        beta: exponent, never positive; -0.07 is the paper's.
    """

    beta: float = -0.07

    def __post_init__(self) -> None:
        _check_at_most_zero("beta", self.beta, SMALLEST_EXPONENT)

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "mnasnet-soft"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy``, and ``synops_bonus``: what the factor adds to it or takes from it."""
        factor = max(ratio, SMALLEST_RATIO) ** self.beta
        return {"accuracy": accuracy, "synops_bonus": accuracy * (factor - 1.0)}

    def bounds(self, max_ratio: float) -> tuple[float, float]:  # noqa: ARG002 - any r
        """[0, SMALLEST_RATIO^beta]: the smallest r gives the largest factor."""
        return 0.0, 1.0 + (SMALLEST_RATIO**self.beta - 1.0)


@dataclass(frozen=True, slots=True)
class MnasNetHardReward:
    """MnasNet's hard constraint (Tan et al., CVPR 2019, equations 2 and 3, alpha = 0).

        R = Q * min(r^beta, 1)

    Range: [0, 1].

    Attributes:
        beta: exponent above the target, never positive; -1 is the paper's.
    """

    beta: float = -1.0

    def __post_init__(self) -> None:
        _check_at_most_zero("beta", self.beta, SMALLEST_EXPONENT)

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "mnasnet-hard"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy`` and ``synops_penalty`` (never positive)."""
        factor = max(ratio, 1.0) ** self.beta
        return {"accuracy": accuracy, "synops_penalty": accuracy * (factor - 1.0)}

    def bounds(self, max_ratio: float) -> tuple[float, float]:  # noqa: ARG002 - any r
        """[0, 1]."""
        return 0.0, 1.0


@dataclass(frozen=True, slots=True)
class TuNASReward:
    """TuNAS's absolute reward (Bender et al., CVPR 2020).

        R = Q + beta * |r - 1|

    It draws the search to the target from both sides. The weight in SynOps terms is
    *reconstructed*: TuNAS sets it for latencies.

    Range: [beta * max(1, r_max - 1), 1].

    Attributes:
        beta: weight of the distance from the target, never positive.
    """

    beta: float = -0.07

    def __post_init__(self) -> None:
        _check_at_most_zero("beta", self.beta)

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "tunas"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy`` and ``synops_penalty`` (never positive)."""
        return {"accuracy": accuracy, "synops_penalty": self.beta * abs(ratio - 1.0)}

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """[beta * max(1, max_ratio - 1), 1]."""
        return self.beta * max(1.0, max_ratio - 1.0), 1.0


@dataclass(frozen=True, slots=True)
class AMCReward:
    """AMC's reward for accuracy-guaranteed compression (He et al., ECCV 2018, section 3.3).

        R = -(1 - Q) * log(scale * r)

    AMC takes the logarithm of an absolute cost; here it is ``scale * r``, with r counted as at
    least :data:`SMALLEST_RATIO`. The scale is *reconstructed*. There is no target in it: a
    smaller r is better on either side of 1.

    Range: [-log(scale * r_max), 0].

    Attributes:
        scale: cost at the target, in whatever unit; ``scale * SMALLEST_RATIO`` must be at least 1,
            so that less error is always better.
    """

    scale: float = 1e4

    def __post_init__(self) -> None:
        _check_at_least(1.0 / SMALLEST_RATIO, "scale", self.scale, most=1e12)

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "amc"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``weighted_error`` (never positive)."""
        cost = math.log(self.scale * max(ratio, SMALLEST_RATIO))
        return {"weighted_error": -(1.0 - accuracy) * cost}

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """[-log(scale * max_ratio), 0]."""
        return -math.log(self.scale * max(max_ratio, SMALLEST_RATIO)), 0.0


@dataclass(frozen=True, slots=True)
class HardReward:
    """A hard constraint: the accuracy when the target is kept, else one fixed reward.

        R = Q if r <= 1, else penalty

    Range: [min(penalty, 0), 1].

    Attributes:
        penalty: the reward of every plan over the target, at most 0.
    """

    penalty: float = -1.0

    def __post_init__(self) -> None:
        _check_at_most_zero("penalty", self.penalty)

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "hard"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy`` when the target is kept, else ``synops_penalty``; the other is 0."""
        if ratio <= 1.0:
            return {"accuracy": accuracy, "synops_penalty": 0.0}
        return {"accuracy": 0.0, "synops_penalty": self.penalty}

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """[penalty, 1], or [0, 1] when no plan can be over the target."""
        return (self.penalty if max_ratio > 1.0 else 0.0), 1.0


@dataclass(slots=True)
class LagrangianReward:
    """A penalty whose weight is a Lagrange multiplier, moved by dual ascent as plans come.

        R = Q - lambda * max(0, r - 1)
        lambda <- clip(lambda + rate * (mean cost - limit), 0, lam_max)   after every episode

    with cost = max(0, r - 1) and its mean over the last ``window`` episodes, as for constrained
    Markov decision processes. The numbers are *reconstructed*. The reward of one plan changes
    during a search; a new environment and a new search begin with ``lam``.

    Range: [-lam_max * max(0, r_max - 1), 1].

    Attributes:
        lam: lambda at the beginning, and later as it stands.
        rate: step of the dual ascent.
        limit: mean cost that is tolerated.
        lam_max: largest lambda.
        window: episodes in the mean.
    """

    lam: float = 1.0
    rate: float = 0.5
    limit: float = 0.02
    lam_max: float = 50.0
    window: int = 10
    _costs: deque[float] = field(init=False, repr=False, compare=False)
    _start: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("lam", "rate", "limit", "lam_max"):
            _check_at_least(0, name, getattr(self, name))
        if self.lam > self.lam_max:
            raise RewardError(f"lam is {self.lam}; it must be at most lam_max = {self.lam_max}")
        window = self.window
        if not (_is_number(window) and 1 <= window <= LARGEST and int(window) == window):
            raise RewardError(
                f"window is {shown(window)}; it must be at least 1 episode, a whole number, and at "
                f"most {LARGEST:g}"
            )
        self.window = int(self.window)
        self._costs = deque(maxlen=self.window)
        self._start = self.lam

    @property
    def name(self) -> str:
        """The name it is chosen by."""
        return "lagrangian"

    def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
        """``accuracy`` and ``synops_penalty`` (never positive) under lambda as it stands."""
        return {"accuracy": accuracy, "synops_penalty": -self.lam * max(0.0, ratio - 1.0)}

    def bounds(self, max_ratio: float) -> tuple[float, float]:
        """[-lam_max * max(0, max_ratio - 1), 1]."""
        return -self.lam_max * max(0.0, max_ratio - 1.0), 1.0

    def episode_ended(self, ratio: float) -> None:
        """Moves lambda after an episode whose plan has this r."""
        self._costs.append(max(0.0, ratio - 1.0))
        mean = sum(self._costs) / len(self._costs)
        self.lam = min(self.lam_max, max(0.0, self.lam + self.rate * (mean - self.limit)))

    def fresh(self) -> LagrangianReward:
        """The same shape as it was at the beginning."""
        return LagrangianReward(self._start, self.rate, self.limit, self.lam_max, self.window)


def _check_at_least(low: float, name: str, value: float, most: float = LARGEST) -> None:
    if not (_is_number(value) and low <= value <= most):
        raise RewardError(
            f"{name} is {shown(value)}; it must be a number of at least {low:g} and at most "
            f"{most:g}"
        )


def _check_at_most_zero(name: str, value: float, least: float = -LARGEST) -> None:
    if not (_is_number(value) and least <= value <= 0):
        raise RewardError(
            f"{name} is {shown(value)}; it must be a number of at least {least:g} and at most 0"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


REWARDS: dict[str, Callable[..., RewardShape]] = {
    "tar": TargetAwareReward,
    "mnasnet-soft": MnasNetSoftReward,
    "mnasnet-hard": MnasNetHardReward,
    "tunas": TuNASReward,
    "amc": AMCReward,
    "lagrangian": LagrangianReward,
    "hard": HardReward,
}
"""Reward shapes by name."""


def make_reward(
    reward: str | RewardShape, settings: Mapping[str, Any] | None = None
) -> RewardShape:
    """A reward shape by name, or the given one; an adaptive one as it was at the beginning.

    Two environments that are given one adaptive shape each adapt their own.

    Args:
        reward: a name in :data:`REWARDS` or a shape.
        settings: keyword arguments of the named shape.

    Raises:
        RewardError: for an unknown name or setting.
    """
    if not isinstance(reward, str):
        if settings:
            raise RewardError("reward settings are for rewards given by name")
        return reward.fresh() if isinstance(reward, AdaptiveReward) else reward
    if reward not in REWARDS:
        raise RewardError(unknown("reward", reward, tuple(REWARDS)))
    known = tuple(inspect.signature(REWARDS[reward]).parameters)
    for key in settings or {}:
        if key not in known:
            raise RewardError(unknown(f"setting of reward '{reward}'", key, known))
    return REWARDS[reward](**(settings or {}))
