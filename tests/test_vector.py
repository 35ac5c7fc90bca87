"""The vector environment: the results of single ones, in every autoreset mode and in SB3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import spear_gym  # noqa: F401 - registers
from spear_gym.env import ActionError
from spear_gym.env.sb3_vector import SB3VecEnv
from spear_gym.env.vector import SpearPruneVectorEnv

SETTINGS: dict[str, Any] = {"workload": "digits", "target": 0.3, "lre": "none"}
ENVS, STEPS = 3, 11


def actions() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(0.0, 0.9, (STEPS, ENVS, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def vector() -> SpearPruneVectorEnv:
    made = gym.make_vec(
        "SpearPrune-v0", num_envs=ENVS, vectorization_mode="vector_entry_point", **SETTINGS
    )
    assert isinstance(made, SpearPruneVectorEnv)
    return made


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_equals_single_environments(mode: AutoresetMode) -> None:
    ours = SpearPruneVectorEnv(ENVS, autoreset_mode=mode, **SETTINGS)
    single = gym.vector.SyncVectorEnv(
        [lambda: gym.make("SpearPrune-v0", **SETTINGS)] * ENVS, autoreset_mode=mode
    )
    np.testing.assert_array_equal(ours.reset(seed=1)[0], single.reset(seed=1)[0])
    for action in actions():
        left, right = ours.step(action), single.step(action)
        for one, other in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(one, other)


def test_shares_one_evaluator(vector: SpearPruneVectorEnv) -> None:
    vector.reset(seed=0)
    before = vector.evaluator.runs
    groups = len(vector.evaluator.space)
    for _ in range(groups):
        vector.step(np.full((ENVS, 1), 0.37, dtype=np.float32))
    assert vector.evaluator.runs == before + 1
    assert all(env.unwrapped.evaluator is vector.evaluator for env in vector.envs)


def test_refuses_no_environments() -> None:
    with pytest.raises(ValueError, match="num_envs is 0"):
        SpearPruneVectorEnv(0, **SETTINGS)


def test_sb3_adapter_equals_sb3s_own() -> None:
    ours = SB3VecEnv(SpearPruneVectorEnv(ENVS, autoreset_mode=AutoresetMode.SAME_STEP, **SETTINGS))
    theirs = DummyVecEnv([lambda: gym.make("SpearPrune-v0", **SETTINGS)] * ENVS)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for action in actions():
        (obs, rewards, dones, infos), expected = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        for info, wanted in zip(infos, expected[3], strict=True):
            assert info.keys() == wanted.keys()
            for key in wanted.keys() - {"evaluation_id", "cached"}:  # of the evaluator they share
                np.testing.assert_array_equal(info[key], wanted[key], err_msg=key)


def test_sb3_adapter_wants_same_step_reset() -> None:
    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VecEnv(SpearPruneVectorEnv(2, **SETTINGS))


def test_sb3_learns_through_it() -> None:
    env = SB3VecEnv(SpearPruneVectorEnv(2, autoreset_mode=AutoresetMode.SAME_STEP, **SETTINGS))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(32)
    assert model.num_timesteps == 32


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_side_by_side_scores_the_same_plans(mode: AutoresetMode) -> None:
    one, other = (
        SpearPruneVectorEnv(ENVS, autoreset_mode=mode, side_by_side=way, **SETTINGS)
        for way in (True, False)
    )
    one.reset(seed=1), other.reset(seed=1)
    for action in actions():
        left, right = one.step(action), other.step(action)
        np.testing.assert_allclose(left[0], right[0], atol=2e-3)
        np.testing.assert_allclose(left[1], right[1], atol=2e-2)
        np.testing.assert_array_equal(left[2], right[2])
    assert one.evaluator.known.keys() == other.evaluator.known.keys()
    assert one.evaluator.runs == other.evaluator.runs
    assert one.evaluator.statistics["neuron update: compiled by Numba, side by side"] > 0


def test_side_by_side_refuses_a_bad_action_before_any_step() -> None:
    env = SpearPruneVectorEnv(2, side_by_side=True, **SETTINGS)
    env.reset(seed=0)
    with pytest.raises(ActionError, match="nan"):
        env.step(np.array([[0.3], [np.nan]], dtype=np.float32))
    assert [len(each.decided(np.array([0.3]))) for each in env.envs] == [1, 1]


def test_side_by_side_of_episodes_out_of_step() -> None:
    """As after a plan that could not be evaluated: one episode is a group ahead."""
    ours, single = (SpearPruneVectorEnv(3, side_by_side=way, **SETTINGS) for way in (True, False))
    for env in (ours, single):
        env.reset(seed=0)
        env.envs[0].step(np.array([0.2], dtype=np.float32))
    before = together(ours)
    action = np.array([[0.3], [0.5], [0.7]], dtype=np.float32)
    np.testing.assert_allclose(ours.step(action)[0], single.step(action)[0], atol=2e-3)
    assert together(ours) > before


def test_side_by_side_with_memory_for_no_prefix() -> None:
    """Walks just made outlast the limit, so that episodes go on side by side."""
    env = SpearPruneVectorEnv(ENVS, side_by_side=True, **SETTINGS)
    env.evaluator.memory_bytes = 1
    env.reset(seed=0)
    for action in actions()[: len(env.evaluator.space)]:
        before = together(env)
        env.step(action)
        assert together(env) >= before + ENVS
    assert not [way for way in env.evaluator.statistics if "left out" in way]


def test_side_by_side_out_of_step_with_memory_for_no_prefix() -> None:
    ours, single = (SpearPruneVectorEnv(4, side_by_side=way, **SETTINGS) for way in (True, False))
    for env in (ours, single):
        env.evaluator.memory_bytes = 1
        env.reset(seed=0)
        for ahead in env.envs[:2]:
            ahead.step(np.array([0.2], dtype=np.float32))
    action = np.array([[0.1], [0.3], [0.5], [0.7]], dtype=np.float32)
    for _ in range(2):
        np.testing.assert_allclose(ours.step(action)[0], single.step(action)[0], atol=2e-3)
    assert ours.evaluator.statistics["side by side: left out, prefix not in memory"] > 0


def together(env: SpearPruneVectorEnv) -> int:
    return env.evaluator.statistics.get("neuron update: compiled by Numba, side by side", 0)


def test_side_by_side_without_memory_is_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    env = SpearPruneVectorEnv(ENVS, side_by_side=True, **SETTINGS)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(env.evaluator.simulator, "advance_side_by_side", fail)
    single = SpearPruneVectorEnv(ENVS, **SETTINGS)
    env.reset(seed=0), single.reset(seed=0)
    for action in actions()[:4]:
        np.testing.assert_array_equal(env.step(action)[1], single.step(action)[1])
    assert env.evaluator.statistics["side by side: halved, memory ran out or a plan failed"] > 0
