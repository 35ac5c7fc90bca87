"""SpearPruneVectorEnv: many episodes walked side by side over one network, its data and caches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from spear_gym.env.prune import ARGUMENTS, SpearPruneEnv, make_env, unexpected
from spear_gym.env.spec import HasSpec

OWN_ARGUMENTS = ("num_envs", "autoreset_mode", "side_by_side", "max_episode_steps")


class SpearPruneVectorEnv(HasSpec, SyncVectorEnv):
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
        max_episode_steps: truncates episodes there, as Gymnasium's ``TimeLimit`` does; by default,
            and with -1, they have all their L steps.
        kwargs: arguments of :func:`~spear_gym.env.make_env`.

    Raises:
        ValueError: for fewer than one environment or step, and whatever a single one refuses.
        TypeError: for an argument that there is none of, with near matches.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        side_by_side: bool = False,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in ARGUMENTS:
                known = (*OWN_ARGUMENTS, *ARGUMENTS)
                raise TypeError(unexpected("SpearPruneVectorEnv", name, known))
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if max_episode_steps is not None and max_episode_steps < 1 and max_episode_steps != -1:
            raise ValueError(
                f"max_episode_steps is {max_episode_steps}; it must be at least 1, or -1 for no "
                "limit"
            )
        first = make_env(**kwargs)
        self.evaluator = first.evaluator
        self.side_by_side = side_by_side
        limit = max_episode_steps
        if limit == -1 or (limit is not None and limit > len(first.evaluator.space)):
            limit = None
        # Partials, not closures, so that the vector can be pickled.
        sibling = partial(make_env, **{**kwargs, "workload": None, "evaluator": first.evaluator})
        makers = [partial(_same, first), *[sibling] * (num_envs - 1)]
        super().__init__(
            [partial(_limited, make, limit) for make in makers],
            autoreset_mode=AutoresetMode(autoreset_mode),
        )

    @property
    def episodes(self) -> tuple[SpearPruneEnv, ...]:
        """The environments, without a time limit around them."""
        return tuple(_unwrapped(env) for env in self.envs)

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Steps all episodes; see Gymnasium."""
        if self.side_by_side:
            resets = self._autoreset_envs & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
            episodes = zip(self.episodes, actions, resets, strict=True)
            self.evaluator.prepare(
                episode.decided(action) for episode, action, reset in episodes if not reset
            )
        return super().step(actions)

    def _groups_and_workload(self) -> tuple[int, str]:
        return len(self.evaluator.space), self.evaluator.workload.name


def _same(env: SpearPruneEnv) -> SpearPruneEnv:
    return env


def _limited(make: Callable[[], SpearPruneEnv], limit: int | None) -> gym.Env[Any, Any]:
    env = make()
    return env if limit is None else TimeLimit(env, limit)


def _unwrapped(env: gym.Env[Any, Any]) -> SpearPruneEnv:
    inner = env.unwrapped
    assert isinstance(inner, SpearPruneEnv)
    return inner
