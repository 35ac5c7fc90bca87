"""Stable-Baselines3, sb3-contrib, SBX and SuperSuit, with the environment as it is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import spear_gym  # noqa: F401 - registers


def make() -> gym.Env[Any, Any]:
    return gym.make("SpearPrune-Digits-v0", lre="none")


def test_stable_baselines3_logs_infos(tmp_path: Any) -> None:
    keywords = ("accuracy", "cost", "predicted_synops_fraction")
    env = Monitor(make(), str(tmp_path / "log"), info_keywords=keywords)
    SAC("MlpPolicy", env, learning_starts=8, device="cpu").learn(12)
    header, *rows = (tmp_path / "log.monitor.csv").read_text().splitlines()[1:]
    assert header.split(",")[3:] == list(keywords)
    assert len(rows) == 3
    assert all(0 <= float(row.split(",")[3]) <= 1 for row in rows)


def test_stable_baselines3_normalises() -> None:
    env = VecNormalize(VecMonitor(DummyVecEnv([make] * 2)))
    PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)
    assert env.ret_rms.count > 1


def test_sb3_contrib() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", make(), n_steps=8, batch_size=8, device="cpu")
    assert model.learn(8).num_timesteps == 8


@pytest.mark.slow
def test_sbx() -> None:
    sbx = pytest.importorskip("sbx", reason="SBX is not installed")
    assert sbx.SAC("MlpPolicy", make(), learning_starts=10).learn(24).num_timesteps == 24


def test_supersuit() -> None:
    supersuit = pytest.importorskip("supersuit", reason="SuperSuit is not installed")
    stacked = supersuit.normalize_obs_v0(supersuit.frame_stack_v1(make(), 2), 0, 1)
    assert stacked.reset()[0].shape == (30,)
    vector = supersuit.stable_baselines3_vec_env_v0(make(), 2)
    vector.reset()
    ends = [vector.step(np.full((2, 1), 0.4, np.float32))[2].tolist() for _ in range(4)]
    assert ends == [[False, False]] * 3 + [[True, True]]
