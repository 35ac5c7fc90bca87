"""PPO in a single file, after CleanRL's conventions, over Gymnasium's vectors and wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers
from torch import Tensor, nn
from torch.distributions import Normal

import spear_gym  # noqa: F401 - registers
from spear_gym.workload import Workload

ENVS, STEPS, ITERATIONS, EPOCHS, GAMMA, LAMBDA, CLIP = 4, 16, 8, 4, 0.99, 0.95, 0.2


class Agent(nn.Module):
    """A Gaussian policy whose spread does not depend on the state, and a critic."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 1))
        self.mean = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 1))
        self.log_std = nn.Parameter(torch.full((1,), -1.0))

    def policy(self, observations: Tensor) -> Normal:
        return Normal(self.mean(observations), self.log_std.exp())

    def value(self, observations: Tensor) -> Tensor:
        return self.critic(observations).squeeze(-1)


def train(env: gym.vector.VectorEnv, seed: int = 0) -> list[float]:
    """Trains; returns the return of every episode, in order."""
    torch.manual_seed(seed)
    agent = Agent(env.single_observation_space.shape[0])
    adam = torch.optim.Adam(agent.parameters(), lr=3e-3)
    returns: list[float] = []
    observation = torch.as_tensor(env.reset(seed=seed)[0])
    for _ in range(ITERATIONS):
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(STEPS):
            with torch.no_grad():
                policy, value = agent.policy(observation), agent.value(observation)
                action = policy.sample()
            after, reward, ended, cut, infos = env.step(action.numpy())
            done = torch.as_tensor(ended | cut, dtype=torch.float32)
            rows.append((observation, action, policy.log_prob(action).sum(-1), value,
                         torch.as_tensor(reward, dtype=torch.float32), done))  # fmt: skip
            if "episode" in infos:
                returns += infos["episode"]["r"][infos["_episode"]].tolist()
            observation = torch.as_tensor(after)
        _update(agent, adam, rows, observation)
    return returns


def _update(agent: Agent, adam: torch.optim.Adam, rows: list, last: Tensor) -> None:
    observations, actions, logs, values, rewards, dones = (
        torch.stack(c) for c in zip(*rows, strict=True)
    )
    with torch.no_grad():
        following = agent.value(last)
        advantages, gain = torch.zeros_like(rewards), torch.zeros(ENVS)
        for t in reversed(range(STEPS)):
            delta = rewards[t] + GAMMA * following * (1 - dones[t]) - values[t]
            gain = delta + GAMMA * LAMBDA * (1 - dones[t]) * gain
            advantages[t], following = gain, values[t]
    returns = (advantages + values).flatten()
    flat = advantages.flatten()
    flat = (flat - flat.mean()) / (flat.std() + 1e-8)
    for _ in range(EPOCHS):
        policy = agent.policy(observations.flatten(0, 1))
        ratio = (policy.log_prob(actions.flatten(0, 1)).sum(-1) - logs.flatten()).exp()
        gain = torch.min(ratio * flat, ratio.clamp(1 - CLIP, 1 + CLIP) * flat).mean()
        error = (agent.value(observations.flatten(0, 1)) - returns).square().mean()
        adam.zero_grad()
        (0.5 * error - gain).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        adam.step()


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_learns(tiny: Workload, mode: str) -> None:
    settings: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = gym.make_vec(
        "SpearPrune-v0",
        ENVS,
        vectorization_mode=mode,
        workload=tiny,
        target=0.2,
        lre="none",
        **({"vector_kwargs": settings} if mode == "sync" else settings),
    )
    returns = train(wrappers.RecordEpisodeStatistics(wrappers.ClipAction(env)))
    assert len(returns) == ENVS * (STEPS * ITERATIONS // 3)
    assert np.mean(returns[-40:]) > np.mean(returns[:40]) + 0.5
