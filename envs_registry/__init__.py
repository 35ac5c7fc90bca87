"""What is registered: environments with Gymnasium, workloads with the catalogue."""

from __future__ import annotations

import gymnasium as gym

from .catalogue import ENTRIES, Entry, add
from .cluttered_digits import CLUTTERED
from .digits import DIGITS

__all__ = ["ENTRIES", "Entry", "register_envs"]

ENTRY_POINT = "spear_gym.env:SpearPruneEnv"

for _entry in (DIGITS, *CLUTTERED):
    add(_entry)


def register_envs() -> None:
    """Registers ``SpearPrune-v0`` and one id per workload; calling it again changes nothing."""
    if "SpearPrune-v0" not in gym.registry:
        gym.register("SpearPrune-v0", entry_point=ENTRY_POINT)
    for entry in ENTRIES.values():
        if entry.environment not in gym.registry:
            gym.register(
                entry.environment, entry_point=ENTRY_POINT, kwargs={"workload": entry.name}
            )
