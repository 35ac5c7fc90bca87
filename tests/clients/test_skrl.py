"""skrl: its wrapper of vector environments."""

from __future__ import annotations

import gymnasium as gym
import pytest

pytest.importorskip("skrl", reason="skrl is not installed")

import torch
from skrl.envs.wrappers.torch import wrap_env

import spear_gym  # noqa: F401 - registers


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_wrapped_vector(mode: str) -> None:
    env = wrap_env(
        gym.make_vec("SpearPrune-Digits-v0", num_envs=2, vectorization_mode=mode, lre="none")
    )
    observations, _ = env.reset()
    assert observations.shape == (2, 15)
    ends = 0
    for _ in range(9):
        observations, rewards, terminated, truncated, infos = env.step(torch.rand(2, 1) * 0.9)
        assert observations.shape == (2, 15)
        assert rewards.shape == terminated.shape == (2, 1)
        assert infos["plan"].shape == (2, 4)
        ends += int(terminated.sum())
        assert not truncated.any()
    assert ends == 4
