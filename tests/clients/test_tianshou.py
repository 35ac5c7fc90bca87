"""Tianshou: its collector and buffer keep every info, and DDPG learns from them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("tianshou", reason="Tianshou is not installed")

from tianshou.algorithm import DDPG
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorDeterministic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step

import spear_gym  # noqa: F401 - registers


def ddpg(env: gym.Env) -> DDPG:
    observation, action = env.observation_space.shape, env.action_space.shape
    body = Net(state_shape=observation, hidden_sizes=[16])
    actor = ContinuousActorDeterministic(preprocess_net=body, action_shape=action)
    both = Net(state_shape=observation, action_shape=action, hidden_sizes=[16], concat=True)
    adam = AdamOptimizerFactory(lr=1e-3)
    return DDPG(
        policy=ContinuousDeterministicPolicy(actor=actor, action_space=env.action_space),
        policy_optim=adam,
        critic=ContinuousCritic(preprocess_net=both),
        critic_optim=adam,
    )


def test_collector_and_buffer() -> None:
    def make() -> gym.Env:
        return gym.make("SpearPrune-Digits-v0", lre="none")

    algorithm, buffer = ddpg(make()), VectorReplayBuffer(100, 2)
    collector = Collector(algorithm, DummyVectorEnv([make] * 2), buffer, exploration_noise=True)
    collector.reset()
    assert collector.collect(n_step=40).n_collected_episodes == 10
    batch, _ = buffer.sample(0)
    assert (batch.info.plan.shape, batch.info.reward_terms.shape) == ((40, 4), (40, 2))
    assert ((batch.info.accuracy >= 0) == batch.terminated).all()
    np.testing.assert_allclose(batch.info.reward_terms.sum(1), batch.rew)
    with policy_within_training_step(algorithm.policy):
        assert np.isfinite(algorithm.update(sample_size=16, buffer=buffer).critic_loss)
