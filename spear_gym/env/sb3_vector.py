"""A vector environment of ours as Stable-Baselines3 wants it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from spear_gym.env.vector import SpearPruneVectorEnv


class SB3VecEnv(VecEnv):
    """A :class:`SpearPruneVectorEnv` as Stable-Baselines3 wants its vector environments.

    Args:
        env: with ``autoreset_mode=AutoresetMode.SAME_STEP``, which is SB3's own convention.

    Raises:
        ValueError: for another autoreset mode.
    """

    def __init__(self, env: SpearPruneVectorEnv) -> None:
        if env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"autoreset_mode is {env.autoreset_mode.value}; SB3 resets in the same step: make "
                "the environment with autoreset_mode=AutoresetMode.SAME_STEP"
            )
        self.env = env
        self._actions: NDArray[Any] = np.zeros((0,))
        self.render_mode = env.envs[0].render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Starts all episodes."""
        observations, infos = self.env.reset(seed=self._seeds)
        self.reset_infos = [_row(infos, index) for index in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return np.asarray(observations).copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps all episodes; an episode that ends starts again at once."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        rows = [_row(infos, index) for index in range(self.num_envs)]
        dones = np.logical_or(terminated, truncated)
        for index in map(int, np.flatnonzero(dones)):
            self.reset_infos[index] = rows[index]
            rows[index] = _row(infos["final_info"], index)
            rows[index]["terminal_observation"] = infos["final_obs"][index]
        for row, ended, cut in zip(rows, terminated, truncated, strict=True):
            row["TimeLimit.truncated"] = bool(cut and not ended)
        return np.asarray(observations).copy(), rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the chosen environments."""
        return [self.env.envs[i].get_wrapper_attr(attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the chosen environments."""
        for index in self._get_indices(indices):
            self.env.envs[index].set_wrapper_attr(attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Calls a method of the chosen environments."""
        chosen = [self.env.envs[i] for i in self._get_indices(indices)]
        methods = [env.get_wrapper_attr(method_name) for env in chosen]
        return [method(*method_args, **method_kwargs) for method in methods]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the chosen environments are wrapped in this; a time limit is all there may be."""
        return [isinstance(self.env.envs[i], wrapper_class) for i in self._get_indices(indices)]


def _row(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """One environment's info out of Gymnasium's dictionary of arrays."""
    names = [name for name in infos if not name.startswith("_") and not name.startswith("final_")]
    return {name: infos[name][index] for name in names}
