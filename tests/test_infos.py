"""Infos: the same keys at every step and in every sub-environment, numbers only."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import toys
from rollouts import infos_of, make_tiny, random_actions, rollout

from spear_gym.env import SpearPruneEnv, make_env
from spear_gym.env.info import FAILURES
from spear_gym.env.vector import SpearPruneVectorEnv
from spear_gym.reward import REWARDS, RewardError
from spear_gym.workload import Workload


def form(info: dict[str, Any]) -> dict[str, Any]:
    """Key by key what a client can rely on: type, shape and dtype."""
    return {
        key: (value.shape, value.dtype.str) if isinstance(value, np.ndarray) else type(value)
        for key, value in info.items()
    }


def numeric(info: dict[str, Any]) -> bool:
    return all(
        isinstance(value, np.number)
        or (isinstance(value, np.ndarray) and value.dtype.kind in "iuf")
        for value in info.values()
    )


@pytest.mark.parametrize("reward", list(REWARDS))
def test_every_info_has_the_same_form(tiny: Workload, reward: str) -> None:
    env = make_tiny(tiny, reward=reward)
    infos = infos_of(rollout(env, random_actions(env, episodes=6)))
    assert all(form(info) == form(infos[0]) and numeric(info) for info in infos)
    assert all(info["cost"] >= 0 and np.isfinite(info["cost"]) for info in infos)


def test_a_failure_has_the_same_form_too() -> None:
    env = make_env(toys.overflowing(), target=0.3, lre="none", scoring="plain")
    _, first = env.reset()
    env.step(np.array([0.0], np.float32))
    *_, info = env.step(np.array([0.0], np.float32))
    assert info["failure"] == FAILURES.index("output not finite")
    assert form(info) == form(first)
    assert numeric(info)


@pytest.mark.parametrize("reward", list(REWARDS))
def test_terms_sum_to_the_reward_at_every_step(tiny: Workload, reward: str) -> None:
    env = make_tiny(tiny, reward=reward, target=0.25)
    steps = [s for s in rollout(env, random_actions(env, episodes=8)) if len(s) == 5]
    assert len({s[4]["cost"] > 0 for s in steps if s[2]}) == 2, "both sides of the target"
    for _, given, *_, info in steps:
        assert given == pytest.approx(info["reward_terms"].sum())
        assert len(info["reward_terms"]) == len(env.reward_term_names)


def test_what_is_not_known_yet_is_minus_one(tiny: Workload) -> None:
    env = make_tiny(tiny)
    _, info = env.reset()
    unknown = {key for key, value in info.items() if np.all(np.asarray(value) == -1)}
    figures = {"accuracy", "synops", "synops_fraction", "predicted_synops_fraction"}
    figures |= {"params_fraction", "evaluation_id"}
    assert unknown == figures | {"group", "applied_action", "channels_kept", "plan"}
    for index in range(3):
        *_, info = env.step(np.array([0.5], np.float32))
        assert (info["group"], info["applied_action"].item()) == (index, 0.5)
        assert (info["plan"] >= 0).tolist() == [group <= index for group in range(3)]
        assert info["plan"][index] == info["channels_kept"]
        assert all((info[key] >= 0) == (index == 2) for key in figures)


def test_names_stand_on_the_environment(tiny: Workload) -> None:
    env = gym.make("SpearPrune-v0", workload=tiny, target=0.3, lre="none")
    assert env.get_wrapper_attr("group_names") == ("conv1", "conv2", "conv3")
    assert env.get_wrapper_attr("reward_term_names") == ("accuracy", "synops_penalty")
    assert env.get_wrapper_attr("failure_names")[0] == "none"


def test_docstring_lists_the_keys(tiny: Workload) -> None:
    table = (SpearPruneEnv.__doc__ or "").partition("## Info")[2].partition("## Copies")[0]
    listed = re.findall(r"^ *\| (\w+) \| (?:int|float)", table, re.MULTILINE)
    assert listed == list(make_tiny(tiny).reset()[1])


def test_a_reward_keeps_to_its_terms(tiny: Workload) -> None:
    class Fickle:
        name = "fickle"

        def terms(self, accuracy: float, ratio: float) -> dict[str, float]:
            return {"accuracy": accuracy} if ratio in (0.5, 1.0, 2.0) else {"other": 0.0}

        def bounds(self, max_ratio: float) -> tuple[float, float]:
            return 0.0, 1.0

    env = make_tiny(tiny, reward=Fickle())
    with pytest.raises(RewardError, match=r"term 'other' for this plan only.*\(so far: accuracy\)"):
        rollout(env, random_actions(env, episodes=1))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_vectors_have_every_key_in_every_environment(tiny: Workload, mode: str) -> None:
    vector = SpearPruneVectorEnv(
        3, autoreset_mode=mode, workload=tiny, target=0.3, lre="none", max_episode_steps=2
    )
    vector.envs[1] = make_env(evaluator=vector.evaluator, target=0.3, lre="none")  # no limit
    _, infos = vector.reset(seed=0)
    keys = {key for key in infos if not key.startswith("_")}
    for step in range(7):
        _, _, terminated, truncated, infos = vector.step(np.full((3, 1), 0.1 * step, np.float32))
        assert {key for key in infos if not key.startswith(("_", "final"))} == keys
        assert all(infos[f"_{key}"].all() for key in keys)
        assert all(infos[key].dtype != object for key in keys)
        if mode == "SameStep" and (terminated | truncated).any():
            final = infos["final_info"]
            assert {key for key in final if not key.startswith("_")} == keys
            assert all((final[f"_{key}"] == (terminated | truncated)).all() for key in keys)
