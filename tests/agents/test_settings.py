"""Settings of agents: what an agent or its library would refuse later is refused at once."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_gym.agents import AGENTS, AgentError, AgentFailed, make_agent, run_search
from spear_gym.agents.algorithms import ALGORITHMS
from spear_gym.agents.blackbox import RANGES as OPTUNA
from spear_gym.agents.blackbox import SAMPLERS, WITHOUT_EFFECT
from spear_gym.agents.design import SlimmingSettings
from spear_gym.agents.gradient import GateSettings
from spear_gym.agents.ranges import Range
from spear_gym.agents.sb3 import OURS
from spear_gym.agents.sb3_ranges import ranges_of
from spear_gym.agents.spear_ddpg import SpearDDPGSettings
from spear_gym.boundary.text import shown
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload

DATACLASSES = {
    "spear-ddpg": SpearDDPGSettings,
    "gates": GateSettings,
    "network-slimming": SlimmingSettings,
}
DEFAULTS = [f"{name}-default" for name in ALGORITHMS]
WITHOUT_SETTINGS = ("random", "uniform", "global-l1", "sca")


OFF_POLICY = {"learning_starts": 4, "batch_size": 8, "buffer_size": 100}
ON_POLICY = {"n_steps": 8, "batch_size": 4}
QUICK: dict[str, dict[str, Any]] = {
    "spear-ddpg": {"hidden": 16, "batch_size": 16, "gradient_steps": 1},
    **dict.fromkeys(("ddpg", "td3", "sac", "tqc", "crossq"), OFF_POLICY),
    **dict.fromkeys(("ppo", "trpo", "recurrent-ppo"), ON_POLICY),
}
"""With these, agents learn within a few episodes."""


def settings_of(agent: str) -> list[str]:
    """Names of all settings that an agent takes."""
    if agent in DATACLASSES:
        return [field.name for field in fields(DATACLASSES[agent])]
    if agent in SAMPLERS:
        kind = SAMPLERS[agent]
        ours = ("seed", *kind.fixed, *WITHOUT_EFFECT)
        return [p for p in inspect.signature(kind.sampler).parameters if p not in ours]
    if agent in WITHOUT_SETTINGS:
        return []
    algorithm = ALGORITHMS[agent.removesuffix("-default")].load()
    return [p for p in inspect.signature(algorithm).parameters if p not in OURS]


PAIRS = [(agent, name) for agent in AGENTS for name in settings_of(agent)]
STRANGE: list[Any] = [
    "many", "", "auto_0", "1e3", math.nan, math.inf, -math.inf, 1e308, -1e308, 10**30, -(10**30),
    [], [1, 2], [1, "step"], ["step", 1], {}, {"a": 1}, {"net_arch": [-1]}, -1, -5, -0.5, 0, 0.5,
    1, 2, 3.5, True, False, None, object(), b"x", ("a",), {1, 2}, 1j,
]  # fmt: skip
NEVER = ["many", "", "auto_0", math.nan, math.inf, -math.inf, {"a": 1}, -(10**30), object(), 1j]
"""No setting may be one of these."""


@pytest.mark.parametrize(("agent", "name"), PAIRS, ids=lambda value: value)
def test_no_setting_may_be_just_anything(agent: str, name: str) -> None:
    for value in NEVER:
        if name == "x0" and isinstance(value, dict):
            continue  # its keys are the network's
        with pytest.raises(AgentError) as refused:
            make_agent(agent, {name: value})
        message = str(refused.value)
        assert name in message, value
        assert shown(value) in message or isinstance(value, dict)
        assert agent in message
        assert "\n" not in message


@pytest.mark.parametrize("agent", AGENTS)
def test_unknown_settings(agent: str) -> None:
    for name in ("seed", "env", "verbose", "n_timesteps", "nonsense", "settings", "name", "tuned"):
        with pytest.raises(AgentError, match=name):
            make_agent(agent, {name: 3})


@pytest.mark.parametrize("agent", [*DATACLASSES, *SAMPLERS, *DEFAULTS])
def test_every_setting_has_a_range(agent: str) -> None:
    known: dict[str, Range] = OPTUNA | ranges_of({})
    if agent not in DATACLASSES:
        assert set(settings_of(agent)) <= set(known)


@settings(max_examples=60)
@given(data=st.data())
def test_what_is_taken_runs(toy: Workload, data: st.DataObject) -> None:
    """Any setting, any value: refused in one line when the agent is made, or the search runs."""
    agent = data.draw(st.sampled_from([*DATACLASSES, *SAMPLERS, *DEFAULTS]))
    known = [name for name in settings_of(agent) if name != "x0"]
    names = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))
    chosen = {name: data.draw(st.sampled_from(STRANGE)) for name in names}
    runs_or_is_refused(toy, agent, chosen)


def test_start_of_cma_es_names_the_groups(toy: Workload) -> None:
    for start, said in [
        ({}, "x0 of agent 'cma-es' lacks '0 conv1', '1 conv2'"),
        ({"conv1": 0.1}, "'conv1'; did you mean '0 conv1'"),
        ({"0 conv1": 0.1, "1 conv2": 0.95}, "'1 conv2' of agent 'cma-es' is 0.95; it must be"),
    ]:
        with pytest.raises(AgentError, match=said):
            runs_or_is_refused(toy, "cma-es", {"x0": start})
    assert runs_or_is_refused(toy, "cma-es", {"x0": {"0 conv1": 0.1, "1 conv2": 0.3}})


def runs_or_is_refused(toy: Workload, agent: str, chosen: dict[str, Any]) -> bool:
    try:
        made = make_agent(agent, QUICK.get(agent.removesuffix("-default"), {}) | chosen)
    except AgentError as refused:
        message = str(refused)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert agent in message
        return False
    evaluator = PlanEvaluator(toy)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    try:
        found = run_search(made, evaluator, judge, budget=20)
    except AgentFailed as error:  # a policy that became NaN
        found = error.found
        rates = ("learning_rate", "critic_learning_rate", "actor_learning_rate")
        assert any(chosen.get(rate, 0) > 0.1 for rate in rates)
    assert found is not None
    assert found.paid > 0
    return True
