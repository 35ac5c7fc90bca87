"""What is registered: environments with Gymnasium, workloads with the catalogue.

The entries themselves are imported when one is asked for: they need PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from spear_gym.registered import FACTORIES

from .ids import IDS

if TYPE_CHECKING:
    from spear_gym.workload import Workload

    from .catalogue import Entry
    from .entries import ENTRIES

__all__ = ["ENTRIES", "IDS", "Entry", "register_envs"]

ENTRY_POINT = "spear_gym.env:SpearPruneEnv"
VECTOR_ENTRY_POINT = "spear_gym.vector:SpearPruneVectorEnv"

_LAZY = {"ENTRIES": ".entries", "Entry": ".catalogue"}


def _factory(name: str) -> Callable[[], Workload]:
    def make() -> Workload:
        from .entries import ENTRIES

        return ENTRIES[name].load()

    return make


for _name in IDS:
    FACTORIES[_name] = _factory(_name)


def register_envs() -> None:
    """Registers ``SpearPrune-v0`` and one id per workload; calling it again changes nothing."""
    ids = {"SpearPrune-v0": "digits"}
    ids |= {environment: name for name, environment in IDS.items()}
    for name, workload in ids.items():
        if name not in gym.registry:
            gym.register(
                name,
                entry_point=ENTRY_POINT,
                vector_entry_point=VECTOR_ENTRY_POINT,
                kwargs={"workload": workload},
            )


def __getattr__(name: str) -> Any:
    """The entries, imported on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name], __name__), name)
