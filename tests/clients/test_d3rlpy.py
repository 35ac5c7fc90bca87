"""d3rlpy: online into a buffer, then offline from it."""

from __future__ import annotations

import gymnasium as gym
import pytest

d3rlpy = pytest.importorskip("d3rlpy", reason="d3rlpy is not installed")

import spear_gym  # noqa: F401 - registers


def test_online_then_offline() -> None:
    env = gym.make("SpearPrune-Digits-v0", lre="none")
    quiet = {"show_progress": False, "logger_adapter": d3rlpy.logging.NoopAdapterFactory()}
    buffer = d3rlpy.dataset.create_fifo_replay_buffer(limit=100, env=env)
    online = d3rlpy.algos.SACConfig(batch_size=16).create(device="cpu:0")
    online.fit_online(env, buffer, n_steps=40, n_steps_per_epoch=20, update_start_step=20, **quiet)
    assert [len(episode) for episode in buffer.episodes] == [4] * 10
    assert all(episode.terminated for episode in buffer.episodes)
    offline = d3rlpy.algos.BCConfig(batch_size=16).create(device="cpu:0")
    history = offline.fit(buffer, n_steps=20, n_steps_per_epoch=10, **quiet)
    assert len(history) == 2
