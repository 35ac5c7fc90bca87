"""Algorithms of Stable-Baselines3 and sb3-contrib: budgets, repetition, settings, refusals."""

from __future__ import annotations

import random
from importlib import import_module
from importlib.resources import files
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback

from spear_gym.agents import AGENTS, AgentError, SearchResult, make_agent, run_search
from spear_gym.agents.algorithms import (
    ALGORITHMS,
    ENVIRONMENT,
    WRAPPERS,
    hyperparameters,
    tuning_record,
)
from spear_gym.agents.sb3 import ZOO_ONLY, SB3Agent, named_agent, rescaled
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import make_judge
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload

OFF_POLICY: dict[str, Any] = {"learning_starts": 9, "batch_size": 8, "buffer_size": 200}
ON_POLICY: dict[str, Any] = {"n_steps": 12, "batch_size": 12}
QUICK: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ddpg", "td3", "sac", "tqc", "crossq"), OFF_POLICY),
    **dict.fromkeys(("ppo", "trpo", "recurrent-ppo"), ON_POLICY),
    "a2c": {},
    "ars": {"n_delta": 2},
}
TUNED = [name for name in ALGORITHMS if name in AGENTS]


def search(workload: Workload, agent: SB3Agent, **settings: Any) -> SearchResult:
    evaluator = PlanEvaluator(workload)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    return run_search(agent, evaluator, judge, **settings)


def trail(result: SearchResult) -> list[tuple[tuple[int, ...], float]]:
    return [(c.evaluation.counts, c.reward) for c in result.candidates]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_learns_spends_its_budget_and_repeats(tiny: Workload, name: str) -> None:
    def run(seed: int) -> SearchResult:
        agent = named_agent(name, tuned=False, **QUICK[name])
        return search(tiny, agent, budget=14, seed=seed)

    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    pytorch = torch.get_rng_state()
    first, other = run(1), run(2)
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002
    assert bool((torch.get_rng_state() == pytorch).all())
    random.seed(3)
    torch.manual_seed(4)
    assert trail(run(1)) == trail(first)
    assert trail(other) != trail(first)
    assert first.agent == f"{name}-default"
    assert first.updated
    assert first.paid == 14 or first.episodes == 140


def test_library_defaults_are_the_librarys() -> None:
    for name, algorithm in ALGORITHMS.items():
        agent = make_agent(f"{name}-default")
        assert isinstance(agent, SB3Agent)
        assert agent.settings == {}, algorithm


def test_first_update_beyond_the_budget_is_said(tiny: Workload) -> None:
    """PPO collects 2048 steps by default before it learns."""
    result = search(tiny, named_agent("ppo", tuned=False), budget=6, seed=0)
    assert result.paid == 6
    assert not result.updated


def test_same_trajectory_as_the_plain_library(tiny: Workload) -> None:
    """The algorithm as its own documentation runs it, on the same environment, without us."""
    evaluator = PlanEvaluator(tiny)
    judge = make_judge(evaluator, NoEstimator(), TargetAwareReward(), target=0.4)
    agent = named_agent("td3", tuned=False, **OFF_POLICY, noise_type="normal", noise_std=0.3)
    found = run_search(agent, evaluator, judge, budget=20, seed=7)

    plans: list[tuple[int, ...]] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            if self.locals["dones"][0]:
                plans.append(tuple(self.locals["infos"][0]["plan"]))
            return len(set(plans)) < 20

    from spear_gym.agents.base import SearchSession

    noise = stable_baselines3.common.noise.NormalActionNoise(np.zeros(1), 0.3 * np.ones(1))
    with torch.random.fork_rng(devices=[]):
        env = rescaled(SearchSession(evaluator, judge, 1000))
        model = stable_baselines3.TD3("MlpPolicy", env, seed=7, action_noise=noise, **OFF_POLICY)
        model.learn(10_000, callback=Note())
    assert list(dict.fromkeys(plans)) == [c.evaluation.counts for c in found.candidates]
    assert len(plans) == found.episodes


# Settings.


def test_unknown_settings() -> None:
    with pytest.raises(AgentError, match=r"setting of agent 'sac-default' 'learning_rat'.*_rate'"):
        make_agent("sac-default", {"learning_rat": 1e-3})
    with pytest.raises(AgentError, match="noise_type and noise_std together"):
        make_agent("ddpg-default", {"noise_std": 0.1})
    with pytest.raises(AgentError, match=r"'noise_type' .* is 'pink'; it must be one of 'normal'"):
        make_agent("ddpg-default", {"noise_type": "pink", "noise_std": 0.1})


@pytest.mark.parametrize("settings", [{"policy": "Mlp"}, {"policy_kwargs": {"net": 3}}])
def test_settings_that_the_library_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match="agent 'ppo-default' refuses its settings"):
        named_agent("ppo", tuned=False, **settings)


def test_algorithm_by_its_path(tiny: Workload) -> None:
    agent = make_agent("stable_baselines3:A2C", {"n_steps": 6})
    assert isinstance(agent, SB3Agent)
    assert search(tiny, agent, budget=5).paid == 5


def test_discrete_algorithm_is_told_which_wrapper() -> None:
    with pytest.raises(AgentError, match=r"discrete actions only.*gymnasium.wrappers.Discretize"):
        make_agent("stable_baselines3:DQN")


# Tuned settings.


@pytest.mark.parametrize("name", TUNED)
def test_tuned_settings_are_read_and_run(tiny: Workload, name: str) -> None:
    stored = hyperparameters(name)
    agent = make_agent(name)
    assert isinstance(agent, SB3Agent)
    ours = ("policy", *ZOO_ONLY)
    assert agent.settings == {k: v for k, v in stored.items() if k not in ours}
    # What rl-baselines3-zoo asks of a file: a policy, and texts only where it knows them.
    assert stored["policy"] == ALGORITHMS[name].policy
    for key, value in stored.items():
        assert not isinstance(value, str) or key in {"policy", "noise_type", "ent_coef"}
    assert set(stored) & set(ZOO_ONLY) == {"n_timesteps", "env_wrapper"}
    assert search(tiny, agent, budget=4, seed=1).paid == 4


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_the_zoo_wraps_the_environment_as_a_search_does(tiny: Workload) -> None:
    """Read as its `get_wrapper_class` does: dotted names with their arguments."""
    env: gym.Env = gym.make("SpearPrune-v0", workload=tiny, target=0.4, lre="none")
    for name in TUNED:
        wrapped = env
        for entry in hyperparameters(name)["env_wrapper"]:
            ((path, arguments),) = entry.items()
            module, _, attribute = path.rpartition(".")
            wrapped = getattr(import_module(module), attribute)(wrapped, **arguments)
        assert hyperparameters(name)["env_wrapper"] == WRAPPERS
        assert isinstance(wrapped, gym.wrappers.RescaleAction)
        assert wrapped.action_space == gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def test_damaged_tuned_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from spear_gym.agents import algorithms

    damaged = tmp_path / "ddpg.yml"
    monkeypatch.setattr(algorithms, "hyperparameters_file", lambda _: damaged)
    for text in ("", "[1, 2]", f"{ENVIRONMENT}: 3", "a: [", "other: {}"):
        damaged.write_text(text)
        with pytest.raises(AgentError, match=r"cannot read the tuned settings '.*ddpg.yml'"):
            hyperparameters("ddpg")
    # A text that the zoo would evaluate is a text here.
    damaged.write_text(f"{ENVIRONMENT}: {{policy_kwargs: 'print(1)'}}")
    assert hyperparameters("ddpg") == {"policy_kwargs": "print(1)"}


def test_tuning_by_hand_is_on_record_too() -> None:
    record = tuning_record("spear-ddpg")
    assert record is not None
    assert record["evaluations"] > 20_000
    assert tuning_record("evolution") is None
    assert tuning_record("../agents/hyperparameters/ddpg") is None


def test_folder_of_settings_holds_nothing_else() -> None:
    folder = files("spear_gym.agents") / "hyperparameters"
    known = {f"{name}{end}" for name in ALGORITHMS for end in (".yml", ".tuning.json")}
    known.add("spear-ddpg.tuning.json")  # set by hand, so that its settings stand in its class
    assert {path.name for path in folder.iterdir()} <= known
