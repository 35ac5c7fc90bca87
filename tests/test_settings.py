"""What is asked for: said once, and the same everywhere."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields, replace

import pytest

from spear_gym.env import make_env
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import TargetError
from spear_gym.lre import NoEstimator
from spear_gym.settings import DEFAULT_TARGET, Goal, PlanSettings
from spear_gym.workload import Workload


def names(cls: type) -> set[str]:
    return {field.name for field in fields(cls)}


def test_the_environment_takes_every_setting() -> None:
    own = {"workload", "hidden_features", "evaluator", "render_mode", "others"}
    arguments = set(inspect.signature(make_env).parameters)
    assert arguments - own == names(PlanSettings) | names(Goal)


def test_the_evaluator_takes_every_setting_of_plans() -> None:
    arguments = inspect.signature(PlanEvaluator).parameters
    own = {"workload", "rankings", "memory_bytes"}  # how it works, and what criterion gives
    defaults = {name: p.default for name, p in arguments.items() if name not in own}
    assert defaults == asdict(PlanSettings())


def test_settings_of_an_evaluator_make_its_like(tiny: Workload) -> None:
    asked = PlanSettings("plain", "bfloat16", "random", 2, 2, 0.5)
    evaluator = asked.evaluator(tiny)
    assert PlanSettings.of(evaluator) == asked
    assert PlanSettings.of(replace(asked, scoring=None).evaluator(tiny)).scoring == tiny.scoring


def test_a_goal_becomes_a_judge(tiny: Workload) -> None:
    evaluator = PlanSettings(scoring="plain").evaluator(tiny)
    goal = Goal(target=0.5, reward_settings={"lam": 2.0}, lre="none")
    judge = goal.judge(evaluator)
    assert judge.target == goal.fraction(evaluator) == 0.5
    assert isinstance(judge.estimator, NoEstimator)
    assert judge.reward.terms(0.9, 1.5) == goal.shape().terms(0.9, 1.5)
    assert Goal().target == DEFAULT_TARGET
    absolute = Goal(target_synops=0.5 * evaluator.reference.synops, lre="none")
    assert absolute.target is None
    assert absolute.judge(evaluator).target == pytest.approx(0.5)


def test_both_targets_are_refused(tiny: Workload) -> None:
    evaluator = PlanSettings(scoring="plain").evaluator(tiny)
    with pytest.raises(TargetError, match="not both"):
        Goal(target=0.5, target_synops=1.0, lre="none").judge(evaluator)
