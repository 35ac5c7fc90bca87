"""AgileRL: DDPG acts in an asynchronous vector and is tested there."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("agilerl", reason="AgileRL is not installed")
pytest.importorskip("peft", reason="AgileRL needs peft and does not bring it")

from agilerl.algorithms.ddpg import DDPG

NAME = "spear_gym:SpearPrune-Digits-v0"


@pytest.mark.slow
def test_acts_and_is_tested() -> None:
    env = gym.vector.AsyncVectorEnv([lambda: gym.make(NAME, lre="none")] * 2)
    try:
        agent = DDPG(env.single_observation_space, env.single_action_space)
        observations, _ = env.reset()
        for _ in range(5):
            actions = np.asarray(agent.get_action(observations))
            observations, _, _, _, infos = env.step(actions)
            assert infos["plan"].shape == (2, 4)
        assert np.isfinite(agent.test(env, loop=2))
    finally:
        env.close()
