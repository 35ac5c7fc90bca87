"""Safety-Gymnasium, which pins an old Gymnasium: its rule for `cost`, in a stand-in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import spear_gym  # noqa: F401 - registers


class WithCost(gym.Wrapper[Any, Any, Any, Any]):
    """Safety-Gymnasium's interface: six values a step, the cost out of the info.

    Its converter asks for `info["cost"]` at every step, and its checker for a finite number.
    """

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if "cost" not in info:
            raise ValueError("the info holds no cost")
        assert np.issubdtype(type(info["cost"]), np.floating)
        assert np.isfinite(info["cost"])
        return observation, reward, info["cost"], terminated, truncated, info


@pytest.mark.parametrize("target", [0.1, 0.6])
def test_cost_at_every_step(target: float) -> None:
    env = WithCost(gym.make("SpearPrune-Digits-v0", lre="none", target=target))
    env.action_space.seed(0)
    for _ in range(4):
        env.reset()
        episode = [env.step(env.action_space.sample()) for _ in range(4)]
        final = episode[-1][5]
        over = final["predicted_synops_fraction"] / target - 1
        assert sum(step[2] for step in episode) == pytest.approx(max(0.0, over))
