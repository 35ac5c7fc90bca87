"""What is asked for, said once: how plans are scored, and what they are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol, Self

from spear_gym.envs_registry.fits import stored_lre
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, make_estimator, make_judge, target_fraction
from spear_gym.lre import LREError, SynopsEstimator
from spear_gym.pruning.limits import RatioLimit, WholeLimit
from spear_gym.pruning.plan import MAX_RATIO
from spear_gym.reward import RewardError, RewardShape, make_reward
from spear_gym.workload import Workload

DEFAULT_TARGET = 0.3
"""The target of a goal that names none."""


@dataclass(frozen=True)
class PlanSettings:
    """The plans that can be made of a network, and how each is scored.

    Attributes:
        scoring: ``"plain"``, ``"recalibrated"`` or ``"refit"``; the workload's default if None.
        precision: of the products in scoring.
        criterion: ranks the channels of a group.
        channel_multiple: kept channels are multiples of this.
        min_channels: fewest channels a group keeps.
        max_ratio: largest prune ratio; these three are one for all groups, or a mapping by name.
        exclude: names of groups that are kept whole.
    """

    scoring: str | None = None
    precision: str = "float32"
    criterion: str = "l1"
    channel_multiple: WholeLimit = 1
    min_channels: WholeLimit = 1
    max_ratio: RatioLimit = MAX_RATIO
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluator: PlanEvaluator) -> Self:
        """Those of an evaluator."""
        space = evaluator.space
        return cls(
            scoring=evaluator.scoring,
            precision=evaluator.precision,
            criterion=evaluator.criterion,
            channel_multiple=space.channel_multiple,
            min_channels=space.min_channels,
            max_ratio=space.max_ratio,
            exclude=evaluator.exclude,
        )

    def evaluator(self, workload: Workload) -> PlanEvaluator:
        """An evaluator of a workload's plans, whose narrowest ones were seen to run.

        Raises:
            ValueError: a subclass that names the setting that does not fit.
        """
        evaluator = PlanEvaluator(workload, **asdict(self))
        evaluator.check_narrowest()
        return evaluator


@dataclass(frozen=True)
class Goal:
    """What plans are judged by.

    Attributes:
        target: largest SynOps after fine-tuning, as a fraction of the unpruned network's;
            ``DEFAULT_TARGET`` when neither target is given.
        target_synops: the same as SynOps per sample; give one of the two.
        reward: a name, or a reward shape.
        reward_settings: keyword arguments of a named reward.
        lre: ``"auto"``, ``"none"``, the path of a fit, or an estimator.
        confidence: of the bound that plans are judged by; the prediction itself if None.
        extrapolate: allow a target outside the SynOps that the prediction was fitted to.
    """

    target: float | None = None
    target_synops: float | None = None
    reward: str | RewardShape = "tar"
    reward_settings: Mapping[str, Any] = field(default_factory=dict)
    lre: str | SynopsEstimator = "auto"
    confidence: float | None = None
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if self.target is None and self.target_synops is None:
            object.__setattr__(self, "target", DEFAULT_TARGET)

    def at(self, target: float) -> Self:
        """The same goal for another target, a fraction."""
        return replace(self, target=target, target_synops=None)

    def check_named(self) -> None:
        """Refuses what a file cannot name.

        Raises:
            RewardError: for a reward shape of the caller's own.
            LREError: for an estimator of the caller's own.
        """
        if not isinstance(self.reward, str):
            raise RewardError(f"reward is {self.reward!r}; a file can keep a name only: give that")
        if not isinstance(self.lre, str):
            raise LREError(
                f"lre is {self.lre!r}; a file can keep a name or a path only: save the fit and "
                "give its path"
            )

    def shape(self) -> RewardShape:
        """The reward shape.

        Raises:
            RewardError: for an unknown name or setting.
        """
        return make_reward(self.reward, dict(self.reward_settings))

    def fraction(self, evaluator: PlanEvaluator) -> float:
        """The target as a fraction of the unpruned SynOps.

        Raises:
            TargetError: when it is out of range, or not exactly one of the two is given.
        """
        return target_fraction(evaluator, self.target, self.target_synops)

    def estimator(self, evaluator: PlanEvaluator) -> SynopsEstimator:
        """The estimator that ``lre`` stands for.

        Raises:
            LREError: when there is none.
        """
        stored = stored_lre(evaluator) if self.lre == "auto" else None
        return make_estimator(evaluator, self.lre, stored)

    def judge(self, evaluator: PlanEvaluator, estimator: SynopsEstimator | None = None) -> Judge:
        """A judge of an evaluator's plans.

        Args:
            evaluator: whose plans.
            estimator: the one that ``lre`` stands for, where it was found already.

        Raises:
            ValueError: a subclass that names what does not fit; see :func:`make_judge`.
        """
        self.fraction(evaluator)  # before a missing prediction is: it takes many fine-tunes
        return make_judge(
            evaluator,
            self.estimator(evaluator) if estimator is None else estimator,
            self.shape(),
            target=self.target,
            target_synops=self.target_synops,
            confidence=self.confidence,
            extrapolate=self.extrapolate,
        )


class Asked(Protocol):
    """Settings of whatever kind that hold those of plans and a goal."""

    @property
    def plans(self) -> PlanSettings:
        """Which plans, and how they are scored."""

    @property
    def goal(self) -> Goal:
        """What they are judged by."""


PLANS = tuple(each.name for each in fields(PlanSettings))
GOAL = tuple(each.name for each in fields(Goal))


def flat(asked: Asked) -> dict[str, Any]:
    """Settings as files hold them: those of plans and goal beside the others.

    Raises:
        ValueError: a subclass that names what a file cannot keep.
    """
    asked.goal.check_named()
    values: dict[str, Any] = {}
    for each in fields(asked):  # type: ignore[arg-type]
        value = getattr(asked, each.name)
        values |= asdict(value) if each.name in ("plans", "goal") else {each.name: value}
    return values


def parted(values: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`flat` gave, as arguments of the class that it came from."""
    rest = {name: value for name, value in values.items() if name not in (*PLANS, *GOAL)}
    plans, goal = (
        {name: values[name] for name in names if name in values} for names in (PLANS, GOAL)
    )
    return {**rest, "plans": PlanSettings(**plans), "goal": Goal(**goal)}
