"""Whether the compiled loops can be had on this machine."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

RESETS = {"none": 0, "subtract": 1, "zero": 2}
"""Reset mechanisms, as the compiled loops are told them."""


@cache
def kernels() -> ModuleType | None:
    """The compiled loops of scoring, ``None`` where Numba cannot be imported."""
    return _imported("spear_gym.simulation.kernels")


@cache
def training_kernels() -> ModuleType | None:
    """The compiled loops of training, ``None`` where Numba cannot be imported."""
    return _imported("spear_gym.simulation.training_kernels")


def obstacle(tensor: Tensor) -> str | None:
    """Why compiled loops do not serve for a tensor, ``None`` if they do."""
    if kernels() is None:
        return "Numba cannot be imported"
    if tensor.device.type != "cpu":
        return f"it runs on {tensor.device.type}"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"its values are {tensor.dtype}"
    return None


def _imported(name: str) -> ModuleType | None:
    try:
        return import_module(name)  # Numba takes 0.4 s, so only when it is used
    except ImportError:
        return None
