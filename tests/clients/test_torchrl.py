"""TorchRL: specs with infos, single and in vectors, and a collector."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

pytest.importorskip("torchrl", reason="TorchRL is not installed")

import torch
from gymnasium.vector import AutoresetMode
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs

import spear_gym  # noqa: F401 - registers

NAME = "SpearPrune-Digits-v0"
INFOS = {"group", "plan", "accuracy", "cost", "reward_terms", "failure"}


def checked(env: Any, shape: tuple[int, ...]) -> None:
    # In SAME_STEP mode TorchRL reads last observations through a reader of its own, and no infos.
    infos = not env.info_dict_reader
    if infos:
        env.auto_register_info_dict()
    check_env_specs(env)
    steps = env.rollout(9, break_when_any_done=False)
    assert steps.shape == (*shape, 9)
    ended = steps["next", "terminated"].squeeze(-1)
    assert ended.sum(-1).tolist() == (2 if shape == () else [2] * shape[0])
    assert not steps["next", "truncated"].any()
    if infos:
        assert set(steps["next"].keys()) >= INFOS
        assert ((steps["next", "accuracy"] >= 0) == ended).all()
        terms = steps["next", "reward_terms"].sum(-1)
        assert torch.allclose(terms.float(), steps["next", "reward"].squeeze(-1))


def test_single_environment_with_infos() -> None:
    checked(GymEnv(NAME, lre="none"), ())


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "sync"])
@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_vector_environment_with_infos(mode: AutoresetMode, ours: bool) -> None:
    if ours:
        vector = gym.make_vec(NAME, num_envs=2, lre="none", autoreset_mode=mode)
    else:
        settings: dict[str, Any] = {"vector_kwargs": {"autoreset_mode": mode}}
        vector = gym.make_vec(NAME, num_envs=2, vectorization_mode="sync", lre="none", **settings)
    checked(GymWrapper(vector), (2,))


@pytest.mark.slow
def test_torchrls_own_vector_environment() -> None:
    env = GymEnv(f"spear_gym:{NAME}", num_envs=2, lre="none")  # for spawned processes
    try:
        checked(env, (2,))
    finally:
        env.close()


def test_collector() -> None:
    frames = 0
    env = GymEnv(NAME, lre="none")
    env.auto_register_info_dict()
    for batch in Collector(env, frames_per_batch=8, total_frames=24):
        frames += batch.numel()
        assert batch["next", "terminated"].sum() == 2
    assert frames == 24
