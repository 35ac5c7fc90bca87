"""RLlib: PPO over two environments (it pins an older Gymnasium, 1.2.2 at the time of writing)."""

from __future__ import annotations

import gymnasium as gym
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.rllib", reason="RLlib is not installed")

from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import spear_gym  # noqa: F401 - registers


@pytest.mark.slow
def test_ppo() -> None:
    register_env("spear", lambda _: gym.make("SpearPrune-Digits-v0", lre="none"))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        config = PPOConfig().environment("spear")
        config = config.env_runners(num_env_runners=0, num_envs_per_env_runner=2)
        config = config.training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1)
        algorithm = config.build_algo()
        found = algorithm.train()["env_runners"]
        algorithm.stop()
    finally:
        ray.shutdown()
    assert found["num_episodes"] == 10
    assert found["episode_len_mean"] == 4
