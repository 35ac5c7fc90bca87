"""SpearPruneVectorEnv: many episodes walked side by side over one network, its data and caches."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from spear_gym.env import SpearPruneEnv


class SpearPruneVectorEnv(SyncVectorEnv):
    """N environments that share one evaluator.

    All episodes have the same length, so they walk in step. What one episode has computed, a
    prefix of a plan or a whole plan, the others are answered from memory; results are those of N
    single environments. ``gym.make_vec("SpearPrune-v0", num_envs=N,
    vectorization_mode="vector_entry_point")`` makes one.

    Args:
        num_envs: N.
        autoreset_mode: one of Gymnasium's three: ``NextStep``, ``SameStep`` or ``Disabled``.
        side_by_side: each layer of all episodes is one operation. Meant for a GPU, where a small
            layer takes less time than its launch; slower on a CPU. A spike may now and then fall
            otherwise than in single environments, for sums are rounded in another order.
        kwargs: arguments of :class:`~spear_gym.env.SpearPruneEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        side_by_side: bool = False,
        **kwargs: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        first = SpearPruneEnv(**kwargs)
        self.evaluator = first.evaluator
        rest = {**kwargs, "evaluator": first.evaluator}

        def sibling() -> SpearPruneEnv:
            return SpearPruneEnv(**rest)

        super().__init__(
            [lambda: first, *[sibling] * (num_envs - 1)],
            autoreset_mode=AutoresetMode(autoreset_mode),
        )
        self.side_by_side = side_by_side

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Steps all episodes; see Gymnasium."""
        if self.side_by_side:
            resets = self._autoreset_envs & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
            envs = cast("tuple[SpearPruneEnv, ...]", self.envs)
            episodes = zip(envs, actions, resets, strict=True)
            self.evaluator.prepare(
                episode.decided(action) for episode, action, reset in episodes if not reset
            )
        return super().step(actions)


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
        observations, _ = self.env.reset(seed=self._seeds)
        self._reset_seeds()
        self._reset_options()
        return np.asarray(observations).copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps all episodes; an episode that ends starts again at once."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        dones = np.logical_or(terminated, truncated)
        for index in np.flatnonzero(dones):
            rows[index] = _row(infos["final_info"], int(index))
            rows[index]["terminal_observation"] = infos["final_obs"][index]
            rows[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
        return np.asarray(observations).copy(), rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the chosen environments."""
        return [getattr(self.env.envs[i], attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the chosen environments."""
        for index in self._get_indices(indices):
            setattr(self.env.envs[index], attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Calls a method of the chosen environments."""
        chosen = [self.env.envs[i] for i in self._get_indices(indices)]
        return [getattr(env, method_name)(*method_args, **method_kwargs) for env in chosen]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the chosen environments are wrapped; they never are."""
        return [isinstance(self.env.envs[i], wrapper_class) for i in self._get_indices(indices)]


def _row(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """One environment's info out of Gymnasium's dictionary of arrays."""
    row: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_"):
            continue
        row[key] = _row(values, index) if isinstance(values, dict) else values[index]
    return row
