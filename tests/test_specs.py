"""Specs: what they say, JSON and back, time limits, and arguments that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import (
    RescaleAction,
    TimeAwareObservation,
    TimeLimit,
    TransformReward,
)
from rollouts import random_actions, rollout, same

import spear_gym  # noqa: F401 - registers
from spear_gym.env import ActionError, OptionError, make_env
from spear_gym.env.spec import SpecError
from spear_gym.env.vector import SpearPruneVectorEnv
from spear_gym.envs_registry import ENTRIES
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre import NoEstimator
from spear_gym.reward import TargetAwareReward
from spear_gym.workload import Workload, load_workload

NAME = "SpearPrune-Digits-v0"


def written_and_read(env: gym.Env[Any, Any]) -> EnvSpec:
    assert env.spec is not None
    return EnvSpec.from_json(env.spec.to_json())


# JSON.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scoring": "plain", "reward_settings": {"lam": 2}, "target": 0.45},
        {"hidden_features": ("target", "position")},
        {"hidden_features": ["target"], "reward": "hard", "criterion": "bn_scale"},
        {"target": np.float32(0.5), "max_ratio": np.float64(0.8), "channel_multiple": np.int64(2)},
        {"workload": load_workload("digits"), "render_mode": "ansi"},
        {"max_episode_steps": 2},
    ],
    ids=lambda settings: ",".join(settings) or "none",
)
def test_settings_survive_json(settings: dict[str, Any]) -> None:
    env = gym.make(NAME, lre="none", **settings)
    read = written_and_read(env)
    assert read == env.spec
    again = gym.make(read)
    assert again.spec == env.spec
    assert again.unwrapped.judge == env.unwrapped.judge
    actions = random_actions(env, episodes=2)
    assert same(rollout(env, actions), rollout(again, actions))


@pytest.mark.parametrize("low", [np.float32(-1.0), -1.0])
def test_wrappers_survive_json(low: Any) -> None:
    env = TimeAwareObservation(RescaleAction(gym.make(NAME, lre="none"), low, -low))
    read = written_and_read(env)
    again = gym.make(read)
    assert [w.name for w in read.additional_wrappers] == ["RescaleAction", "TimeAwareObservation"]
    assert written_and_read(again) == read
    actions = random_actions(env, episodes=1)
    assert same(rollout(env, actions), rollout(again, actions))


def test_vectors_survive_json() -> None:
    vector = gym.make_vec(NAME, num_envs=2, lre="none", autoreset_mode=AutoresetMode.SAME_STEP)
    assert vector.spec is not None
    read = EnvSpec.from_json(vector.spec.to_json())
    assert read == vector.spec
    again = gym.make_vec(read)
    assert isinstance(again, SpearPruneVectorEnv)
    assert (again.num_envs, again.autoreset_mode) == (2, AutoresetMode.SAME_STEP)


class Unrecorded(gym.Wrapper[Any, Any, Any, Any]):
    """Does not record how it was made."""


@pytest.mark.parametrize(
    ("settings", "wrap", "message"),
    [
        ({"workload": "tiny"}, None, r"'kwargs'.workload is a Workload; register it with .*name"),
        ({"reward": TargetAwareReward()}, None, r"reward is a TargetAwareReward; give .* by name"),
        ({"lre": NoEstimator()}, None, r"lre is a NoEstimator; give the path"),
        ({"evaluator": "tiny"}, None, r"evaluator is a PlanEvaluator; leave it out"),
        ({}, Unrecorded, r"wrapper Unrecorded does not record .*RecordConstructorArgs"),
        ({}, lambda env: TransformReward(env, abs), r"'TransformReward'.kwargs.func is a builtin"),
        ({}, lambda env: RescaleAction(env, -np.ones(1), 1.0), r"min_action is a ndarray; give"),
    ],
    ids=["workload", "reward", "lre", "evaluator", "unrecorded", "function", "array"],
)
def test_what_json_cannot_hold_is_named(
    tiny: Workload, settings: dict[str, Any], wrap: Any, message: str
) -> None:
    held = {"workload": tiny, "evaluator": PlanEvaluator(tiny)}
    made = {key: held.get(key, value) if value == "tiny" else value
            for key, value in settings.items()}  # fmt: skip
    env = gym.make("SpearPrune-v0", **{"lre": "none", **made})
    with pytest.raises(SpecError, match=message):
        written_and_read(env if wrap is None else wrap(env))


def test_data_of_a_workload_is_not_copied(tiny: Workload) -> None:
    env = gym.make("SpearPrune-v0", workload=tiny, target=0.3, lre="none")
    assert env.spec is not None
    held = env.spec.kwargs["workload"]
    assert held.graph is tiny.graph
    for name, split in tiny.splits.named().items():
        assert held.split(name).inputs.data_ptr() == split.inputs.data_ptr()
    assert gym.make(env.spec).unwrapped.evaluator.reference == env.unwrapped.evaluator.reference


# Longest episodes.


def test_a_limit_is_registered_that_cuts_nothing() -> None:
    for entry in ENTRIES.values():
        groups = len(load_workload(entry.name).graph.groups)
        assert gym.spec(entry.environment).max_episode_steps == groups + 1 == entry.groups + 1


def test_a_workload_of_ones_own_sets_its_limit(tiny: Workload) -> None:
    env = gym.make("SpearPrune-v0", workload=tiny, target=0.3, lre="none")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 4
    again = gym.make(env.spec)
    assert isinstance(again, TimeLimit)
    for step in rollout(again, random_actions(again, episodes=3)):
        assert len(step) == 2 or not step[3]
    aware = TimeAwareObservation(env, flatten=True)
    assert aware.reset()[0].shape == (16,)
    vector = gym.make_vec("SpearPrune-v0", num_envs=2, workload=tiny, target=0.3, lre="none")
    assert vector.spec is not None
    assert vector.spec.max_episode_steps == 4


def test_an_id_stands_for_its_workload_only(tiny: Workload) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(SpecError, match=r"'SpearPrune-Digits-v0' stands for .*'digits'.*tiny"):
            make(NAME, workload=tiny, target=0.3, lre="none")


def test_an_id_is_not_made_for_longer_episodes(
    monkeypatch: pytest.MonkeyPatch, tiny: Workload
) -> None:
    monkeypatch.setitem(gym.registry, "Short-v0", replace(gym.spec("SpearPrune-v0"), id="Short-v0"))
    gym.registry["Short-v0"].max_episode_steps = 3
    with pytest.raises(SpecError, match=r"'Short-v0' is registered for episodes of fewer than 3"):
        gym.make("Short-v0", workload=tiny, target=0.3, lre="none")


MODES = ["sync", "vector_entry_point", pytest.param("async", marks=pytest.mark.slow)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [NAME, "SpearPrune-v0", "CartPole-v1"])
def test_make_vec_cuts_episodes_as_cartpoles_does(name: str, mode: str) -> None:
    settings = {} if name == "CartPole-v1" else {"lre": "none"}
    vector = gym.make_vec(
        name, num_envs=2, vectorization_mode=mode, max_episode_steps=2, render_mode="rgb_array",
        **settings,
    )  # fmt: skip
    vector.reset(seed=0)
    vector.action_space.seed(0)
    seen = [vector.step(vector.action_space.sample())[2:4] for _ in range(2)]
    vector.close()
    assert [truncated.tolist() for _, truncated in seen] == [[False] * 2, [True] * 2]
    assert not any(terminated.any() for terminated, _ in seen)


@pytest.mark.parametrize("limit", [4, 5, -1, None])
def test_limits_of_vectors_are_those_of_single_ones(limit: int | None) -> None:
    given = {} if limit is None else {"max_episode_steps": limit}
    single = gym.make(NAME, lre="none", **given)
    vector = gym.make_vec(NAME, num_envs=1, lre="none", **given)
    single.reset(), vector.reset()
    for _ in range(4):
        action = np.array([0.5], np.float32)
        expected, got = single.step(action), vector.step(action[None])
        assert (got[2].item(), got[3].item()) == expected[2:4]


@pytest.mark.parametrize("limit", [0, -2])
def test_impossible_limits(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_episode_steps is {limit}; it must be at least 1"):
        SpearPruneVectorEnv(1, max_episode_steps=limit, lre="none")


# Arguments and options are never ignored.


@pytest.mark.parametrize("make", [gym.make, gym.make_vec], ids=["make", "make_vec"])
@pytest.mark.parametrize(
    ("key", "match"),
    [("traget", "'target'"), ("max_ration", "'max_ratio'"), ("hidden", "'hidden_features'")],
)
def test_unknown_arguments_are_refused(make: Any, key: str, match: str) -> None:
    with pytest.raises(
        TypeError, match=rf"unexpected keyword argument '{key}': .*did you mean.*{match}"
    ):
        make(NAME, **{key: 0.5})


WRONG: dict[str, tuple[Any, ...]] = {
    "max_ratio": ("0.3", True, [0.3], {"conv1": "0.3"}, 1j, b"1"),
    **dict.fromkeys(("target", "target_synops", "confidence"), ("0.3", True, [0.3], {}, 1j, b"1")),
    **dict.fromkeys(("channel_multiple", "min_channels"), ("2", True, 2.5, [2], 2.0)),
    "exclude": ("conv1", [1], 3),
    **dict.fromkeys(("scoring", "precision", "criterion", "render_mode"), (3, True, ["l1"], b"l1")),
    "reward_settings": ([1], "lam=1", 3, True),
    "extrapolate": ("no", 1, [], 0.0),
    "hidden_features": ("input_rate", 3, [3], {"input_rate": 1}, True),
    "evaluator": (3, "digits", True),
    "workload": (3, ["digits"], b"digits"),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, given in WRONG.items() for v in given])
def test_arguments_of_the_wrong_type(tiny: Workload, name: str, value: Any) -> None:
    """Named with their value, before anything is trained, whoever asks."""
    arguments = {"workload": tiny, "lre": "none", name: value}
    with pytest.raises(OptionError, match=rf"^{name} is .*; it must be a|^extrapolate .* True or"):
        make_env(**arguments)
    with pytest.raises(OptionError, match=f"^{name} is "):
        SpearPruneVectorEnv(2, **arguments)


def test_numbers_of_numpy_are_numbers(tiny: Workload) -> None:
    env = make_env(
        tiny, np.float32(0.5), lre="none", min_channels=np.int64(2), max_ratio=np.float64(0.8),
        extrapolate=np.bool_(False),
    )  # fmt: skip
    assert (env.judge.target, env.evaluator.space.min_channels) == (0.5, 2)
    by_layer = {tiny.graph.groups[0].name: np.int64(2)}
    assert make_env(tiny, 0.5, lre="none", min_channels=by_layer).evaluator.space.widths(0)[0] == 2


@pytest.mark.parametrize("mode", ["humn", "rgb-array", ""])
def test_render_modes_that_there_are_none_of(tiny: Workload, mode: str) -> None:
    with pytest.raises(OptionError, match=f"unknown render_mode '{mode}'; .*known are: "):
        make_env(tiny, lre="none", render_mode=mode)


@pytest.mark.parametrize("action", [["x"], None, [None], "0.3", [[0.3], [0.3, 0.3]], object()])
def test_actions_that_are_none(tiny: Workload, action: Any) -> None:
    env = make_env(tiny, target=0.3, lre="none")
    env.reset()
    with pytest.raises(ActionError, match=r"^action "):
        env.step(action)


@pytest.mark.parametrize("options", [3, "target", ["target"], True])
def test_options_that_are_no_dictionary(tiny: Workload, options: Any) -> None:
    with pytest.raises(OptionError, match=r"^options is .*; it must be a dictionary"):
        make_env(tiny, target=0.3, lre="none").reset(options=options)


@pytest.mark.parametrize("key", ["target", "traget", "seed", ""])
def test_reset_has_no_options(tiny: Workload, key: str) -> None:
    env = make_env(tiny, target=0.3, lre="none")
    env.reset(options={})
    with pytest.raises(OptionError, match="reset has no options"):
        env.reset(options={key: 0.15})
    with pytest.raises(OptionError, match=r"gym.make\(\.\.\., target=\.\.\.\)"):
        env.reset(options={"target": 0.15})
    vector = SpearPruneVectorEnv(2, workload=tiny, target=0.3, lre="none")
    vector.reset()
    with pytest.raises(OptionError):
        vector.reset(options={key: 0.15})
    vector.reset(options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("workload", "digits"),
        ("scoring", "refit"),
        ("precision", "bfloat16"),
        ("criterion", "random"),
        ("channel_multiple", 2),
        ("min_channels", 3),
        ("max_ratio", 0.5),
    ],
)
def test_a_shared_evaluator_is_not_contradicted(tiny: Workload, setting: str, value: Any) -> None:
    evaluator = PlanEvaluator(tiny, scoring="plain")
    with pytest.raises(OptionError, match=rf"{setting} is {value!r}, but the evaluator"):
        make_env(evaluator=evaluator, lre="none", **{setting: value})
    make_env(evaluator=evaluator, lre="none", workload="tiny", max_ratio=0.9, scoring="plain")


def test_written_form_is_gymnasiums(tiny: Workload) -> None:
    spec = gym.make(NAME, lre="none").spec
    assert spec is not None
    theirs = json.loads(EnvSpec.to_json(spec))
    assert json.loads(spec.to_json()) == theirs
