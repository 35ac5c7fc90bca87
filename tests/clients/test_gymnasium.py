"""Gymnasium's own converters, recorders and normalisers, single and vector."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

import spear_gym  # noqa: F401 - registers

NAME = "SpearPrune-Digits-v0"
SINGLE = {
    "ClipAction": wrappers.ClipAction,
    "DiscretizeAction": lambda env: wrappers.DiscretizeAction(env, 10),
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 2),
    "NormalizeObservation": wrappers.NormalizeObservation,
    "NormalizeReward": wrappers.NormalizeReward,
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "RescaleAction": lambda env: wrappers.RescaleAction(env, np.float32(-1), np.float32(1)),
    "RescaleObservation": lambda env: wrappers.RescaleObservation(
        env, np.float32(-1), np.float32(1)
    ),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.2),
    "TimeAwareObservation": wrappers.TimeAwareObservation,
}


@pytest.mark.parametrize("name", SINGLE)
def test_single(name: str) -> None:
    env: gym.Env[Any, Any] = SINGLE[name](gym.make(NAME, lre="none"))
    for _ in range(2):
        observation, _ = env.reset(seed=0)
        assert observation in env.observation_space
        ended = False
        for step in range(4):
            observation, _, ended, _, info = env.step(env.action_space.sample())
            assert info["group"] == step
        assert ended


NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED

# Not all of Gymnasium's own vector wrappers take all of its modes.
VECTOR = [
    *((vector_wrappers.RecordEpisodeStatistics, mode) for mode in (NEXT, SAME, DISABLED)),
    (vector_wrappers.NormalizeObservation, NEXT),
    (vector_wrappers.NormalizeReward, NEXT),
    *((vector_wrappers.ClipAction, mode) for mode in (NEXT, SAME, DISABLED)),
    *((vector_wrappers.DictInfoToList, mode) for mode in (NEXT, SAME, DISABLED)),
]


@pytest.mark.parametrize(("wrap", "mode"), VECTOR)
def test_vector(wrap: Any, mode: AutoresetMode) -> None:
    env = wrap(gym.make_vec(NAME, num_envs=2, lre="none", autoreset_mode=mode))
    env.reset(seed=0)
    ends = 0
    for step in range(9):
        _, _, terminated, truncated, infos = env.step(np.full((2, 1), 0.1 * step, np.float32))
        if isinstance(infos, list):
            assert [info["plan"].shape for info in infos] == [(4,)] * 2
        else:
            assert infos["plan"].shape == (2, 4)
        ends += int(terminated.sum())
        assert not truncated.any()
        if mode is DISABLED and terminated.any():
            env.reset(options={"reset_mask": terminated})
    assert ends == 4


@pytest.mark.parametrize("single", [True, False], ids=["single", "vector"])
def test_numpy_to_torch(single: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("array_api_compat", reason="Gymnasium's converters need array-api-compat")
    if single:
        env = wrappers.NumpyToTorch(gym.make(NAME, lre="none"))
        shape: tuple[int, ...] = ()
    else:
        env = wrappers.vector.NumpyToTorch(gym.make_vec(NAME, num_envs=2, lre="none"))
        shape = (2,)
    _, infos = env.reset(seed=0)
    for _ in range(4):
        assert infos["plan"].shape == (*shape, 4)
        assert isinstance(infos["plan"], torch.Tensor)
        observation, *_, infos = env.step(torch.full((*shape, 1), 0.4))
        assert observation.shape == (*shape, 15)


def test_record_video_frames() -> None:
    env = wrappers.RenderCollection(gym.make(NAME, lre="none", render_mode="rgb_array"))
    env.reset()
    for _ in range(4):
        env.step(np.array([0.5], np.float32))
    frames = env.render()
    assert len(frames) == 5
    assert len({frame.shape for frame in frames}) == 1
    assert all(side % 2 == 0 for side in frames[0].shape[:2]), "encoders want even sides"
