"""What is registered: environments with Gymnasium, workloads with the catalogue.

The entries themselves are imported when one is asked for: they need PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from spear_gym.boundary.plugins import FACTORIES

from .ids import IDS

if TYPE_CHECKING:
    from spear_gym.workload import Workload

    from .catalogue import Entry
    from .entries import ENTRIES

__all__ = ["ENTRIES", "IDS", "Entry", "register_envs"]

ENTRY_POINT = "spear_gym.env:make_env"
VECTOR_ENTRY_POINT = "spear_gym.env.vector:SpearPruneVectorEnv"

_LAZY = {"ENTRIES": ".entries", "Entry": ".catalogue"}


def _factory(name: str) -> Callable[[], Workload]:
    def make() -> Workload:
        from .entries import ENTRIES

        return ENTRIES[name].load()

    return make


for _name in IDS:
    FACTORIES[_name] = _factory(_name)


def register_envs() -> None:
    """Registers ``SpearPrune-v0`` and one id per workload; calling it again changes nothing.

    The former takes any workload, so how many steps its episodes have is set when it is made.
    """
    _register("SpearPrune-v0", None, {})
    for workload, (environment, groups) in IDS.items():
        _register(environment, groups + 1, {"workload": workload})


def _register(name: str, max_episode_steps: int | None, kwargs: dict[str, str]) -> None:
    if name not in gym.registry:
        gym.register(
            name,
            entry_point=ENTRY_POINT,
            vector_entry_point=VECTOR_ENTRY_POINT,
            max_episode_steps=max_episode_steps,
            kwargs=kwargs,
        )


def __getattr__(name: str) -> Any:
    """The entries, imported on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name], __name__), name)
