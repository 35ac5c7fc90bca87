"""Episodes of an environment, recorded and compared."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from spear_gym.env import SpearPruneEnv, make_env
from spear_gym.workload import Workload


def make_tiny(tiny: Workload, **options: Any) -> SpearPruneEnv:
    settings: dict[str, Any] = {"target": 0.3, "lre": "none", **options}
    return make_env(tiny, **settings)


def random_actions(env: gym.Env[Any, Any], episodes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    steps = episodes * len(env.unwrapped.evaluator.space)
    return [rng.uniform(0.0, 0.9, 1).astype(np.float32) for _ in range(steps)]


def rollout(env: gym.Env[Any, Any], actions: list[np.ndarray], seed: int = 0) -> list[Any]:
    """Everything an environment returns, episode after episode."""
    return [env.reset(seed=seed), *going_on(env, actions)]


def going_on(env: gym.Env[Any, Any], actions: list[np.ndarray]) -> list[Any]:
    """The same without the first reset."""
    returned: list[Any] = []
    for action in actions:
        returned.append(env.step(action))
        if returned[-1][2] or returned[-1][3]:
            returned.append(env.reset())
    return returned


def infos_of(returned: list[Any]) -> list[dict[str, Any]]:
    return [item[-1] for item in returned]


def same(one: Any, other: Any) -> bool:
    return bool(data_equivalence(one, other, exact=True))
