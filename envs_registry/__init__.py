"""What is registered: environments with Gymnasium, workloads with the catalogue."""

from __future__ import annotations

import gymnasium as gym

from .catalogue import ENTRIES, Entry, add
from .cluttered_digits import CLUTTERED
from .digits import DIGITS
from .digits_events import DIGITS_EVENTS

__all__ = ["ENTRIES", "Entry", "register_envs"]

ENTRY_POINT = "spear_gym.env:make_env"
VECTOR_ENTRY_POINT = "spear_gym.env.vector:SpearPruneVectorEnv"

for _entry in (DIGITS, *CLUTTERED, DIGITS_EVENTS):
    add(_entry)


def register_envs() -> None:
    """Registers ``SpearPrune-v0`` and one id per workload; calling it again changes nothing.

    The former takes any workload, so how many steps its episodes have is set when it is made.
    """
    _register("SpearPrune-v0", None, {})
    for entry in ENTRIES.values():
        _register(entry.environment, entry.groups + 1, {"workload": entry.name})


def _register(name: str, max_episode_steps: int | None, kwargs: dict[str, str]) -> None:
    if name not in gym.registry:
        gym.register(
            name,
            entry_point=ENTRY_POINT,
            vector_entry_point=VECTOR_ENTRY_POINT,
            max_episode_steps=max_episode_steps,
            kwargs=kwargs,
        )
