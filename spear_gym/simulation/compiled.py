"""Whether the compiled loops can be had on this machine."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def kernels() -> ModuleType | None:
    """The compiled loops, ``None`` where Numba cannot be imported."""
    try:
        return import_module("spear_gym.simulation.kernels")  # importing Numba takes 0.4 s
    except ImportError:
        return None
