"""What is asked for: said once, and the same everywhere."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from spear_gym.agents import make_agent, reading
from spear_gym.agents.compare import cells
from spear_gym.agents.compare.cells import CompareSettings
from spear_gym.agents.front import search_targets
from spear_gym.agents.run_folder import SearchSettings
from spear_gym.boundary.fields import Fields
from spear_gym.cli.compare import compare
from spear_gym.cli.search import search
from spear_gym.env import make_env
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import TargetError
from spear_gym.lre import LREError, NoEstimator
from spear_gym.reward import RewardError, make_reward
from spear_gym.settings import DEFAULT_TARGET, GOAL, PLANS, Goal, PlanSettings, parted
from spear_gym.workload import Workload


def test_the_environment_takes_every_setting() -> None:
    own = {"workload", "hidden_features", "evaluator", "render_mode", "others"}
    arguments = set(inspect.signature(make_env).parameters)
    assert arguments - own == {*PLANS, *GOAL}


ELSEWHERE = {
    "search": {
        "hide",  # named so that `--hide NAME --hide NAME` reads well: hidden_features
        "workload", "agent", "agent_setting", "budget", "seed", "out_folder", "storage", "top",
        "repair", "use_slack", "resume", "overwrite", "workers", "threads",  # of the search itself
        "targets",  # several searches
    },
    "compare": {
        "hide", "workload", "agents", "budget", "seeds", "out_folder", "storage", "workers",
        "targets",  # each is a task of its own: they stand in place of the goal's
    },
}  # fmt: skip
"""Options of the commands that are no settings of plans or goal."""

OPTIONS = {"reward_settings": "reward_setting"}  # one pair each
NO_OPTION = {
    "search": set[str](),
    # Fractions hold for networks of any size; SynOps per sample would mean another prune for each.
    "compare": {"target", "target_synops"},
}


@pytest.mark.parametrize(("name", "command"), [("search", search), ("compare", compare)])
def test_commands_take_every_setting(name: str, command: Callable[..., None]) -> None:
    wanted = {OPTIONS.get(one, one) for one in (*PLANS, *GOAL)} - NO_OPTION[name]
    parameters = inspect.signature(command).parameters
    assert set(parameters) - ELSEWHERE[name] == wanted
    usual = {**asdict(PlanSettings()), **asdict(Goal()), "target": None, "reward_setting": None}
    # Commands bound the prediction, or say that they do not.
    told = {"confidence": {"search": None, "compare": "off"}[name], "exclude": None}
    for option in wanted:
        assert parameters[option].default == (usual | told)[option], option


def test_shared_options_are_the_same() -> None:
    ours, theirs = (inspect.signature(command).parameters for command in (search, compare))
    for name in {OPTIONS.get(one, one) for one in (*PLANS, *GOAL)} & set(theirs):
        if name != "confidence":  # its default differs, and so its type; its help is one object
            assert ours[name].annotation == theirs[name].annotation, name


def test_run_folders_hold_every_setting() -> None:
    asked = SearchSettings("digits", "tpe", plans=PlanSettings(exclude=("conv1",)))
    own = {field.name for field in fields(SearchSettings)} - {"plans", "goal"}
    assert set(asked.to_json()) == {*PLANS, *GOAL, *own}
    # Read again by their old names, in any order.
    again = SearchSettings(**parted(dict(reversed(asked.to_json().items()))))
    assert again == asked


def test_run_folders_hold_what_they_always_did() -> None:
    """Byte for byte: names of studies in a storage follow from it."""
    asked = SearchSettings(
        "w:make",
        "tpe",
        {"n": 1},
        plans=PlanSettings("refit", "bfloat16", "taylor", 2, 3, 0.8),
        goal=Goal(None, 4e4, "hard", {"lam": 2.0}, "none", 0.95, extrapolate=True),
        hidden_features=("target",),
        top=2,
        threads=4,
    )
    assert json.dumps(asked.to_json()) == (
        '{"workload": "w:make", "agent": "tpe", "agent_settings": {"n": 1}, "target": null, '
        '"target_synops": 40000.0, "budget": 200, "seed": 0, "reward": "hard", '
        '"reward_settings": {"lam": 2.0}, "scoring": "refit", "precision": "bfloat16", '
        '"criterion": "taylor", "lre": "none", "channel_multiple": 2, "min_channels": 3, '
        '"max_ratio": 0.8, "hidden_features": ["target"], "confidence": 0.95, '
        '"extrapolate": true, "top": 2, "repair": false, "use_slack": false, "threads": 4}'
    )


def test_limits_by_layer_are_read_back() -> None:
    plans = PlanSettings(
        channel_multiple={"a": 2}, min_channels={"b": 3}, max_ratio={"a": 0.5}, exclude=("c",)
    )
    asked = SearchSettings("w:make", "tpe", plans=plans)
    written = Fields(json.loads(json.dumps(asked.to_json())), "settings")
    assert reading._settings(written) == asked


def test_archives_hold_what_they_always_did() -> None:
    asked = CompareSettings(("digits",), ("tpe",), (0.5,), goal=Goal(lre="none"))
    assert json.dumps(asked.to_json()) == (
        '{"workloads": ["digits"], "agents": ["tpe"], "targets": [0.5], "seeds": 5, '
        '"budget": 200, "reward": "tar", "reward_settings": {}, "scoring": null, "lre": "none", '
        '"confidence": null, "hidden_features": []}'
    )
    other = replace(asked, plans=PlanSettings(max_ratio=0.8), goal=Goal(extrapolate=True))
    added = set(other.to_json()) - set(asked.to_json())
    assert added == {"max_ratio", "extrapolate"}
    assert CompareSettings(**parted(other.to_json())) == other
    every = {*PLANS, *GOAL} - {"target", "target_synops"}
    assert every <= {*cells.WRITTEN, *cells.ADDED}


def test_a_comparison_gives_its_cells_every_setting() -> None:
    plans = PlanSettings("refit", "bfloat16", "taylor", 2, 3, 0.8)
    goal = Goal(None, None, "hard", {"lam": 2.0}, "none", 0.95, extrapolate=True)
    asked = CompareSettings(("w",), ("tpe",), (0.5, 0.2), plans=plans, goal=goal)
    found = [asked.search(cell) for cell in asked.cells()]
    assert {settings.goal.target for settings in found} == {0.5, 0.2}
    for settings in found:
        assert (settings.plans, replace(settings.goal, target=goal.target)) == (plans, goal)


@pytest.mark.parametrize("goal", [Goal(0.5), Goal(target_synops=100.0)])
def test_a_goal_of_a_comparison_has_no_target(goal: Goal) -> None:
    with pytest.raises(TargetError, match="give targets"):
        CompareSettings(("w",), ("tpe",), (0.5,), goal=goal)


def test_files_keep_names_only() -> None:
    with pytest.raises(RewardError, match="a file can keep a name only"):
        SearchSettings("w", "tpe", goal=Goal(reward=make_reward("tar", {}))).to_json()
    with pytest.raises(LREError, match="save the fit and give its path"):
        SearchSettings("w", "tpe", goal=Goal(lre=NoEstimator())).to_json()


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


def test_a_target_is_looked_at_before_a_fit_is_missed(tiny: Workload, tmp_path: Path) -> None:
    """A fit takes many fine-tunes, and would not help."""
    evaluator = PlanEvaluator(tiny)
    with pytest.raises(LREError, match="there is no LRE fit"):
        Goal(target=0.5).judge(evaluator)
    with pytest.raises(TargetError, match="target is 2;"):
        Goal(target=2.0).judge(evaluator)
    settings = SearchSettings(tiny.name, "random", budget=2)
    with pytest.raises(TargetError, match="target is 2;"):
        search_targets(make_agent("random"), evaluator, settings, (0.5, 2.0), tmp_path / "front")
    assert not (tmp_path / "front").exists()
