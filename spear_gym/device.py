"""What the machine offers: compiled loops, exact products, and how much is best done at a time.

The compiled loops are Numba's and for the CPU; wherever they are missing PyTorch's own operations
take their place and give the same numbers, and a run's statistics say why.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

PIECE_BYTES = 2 * 2**20
"""Inputs or currents of a block that are computed at a time; they should stay in the cache."""

DEVICE_PIECE_BYTES = 2**30
"""The same on another device than the CPU, where many launches cost more than a cache saves."""


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles a function when it is first called; its machine code is kept for later runs.

    For modules that are imported by :func:`loops` alone.
    """
    from numba import njit  # 0.4 s, so only where loops are defined

    compiled: Callable[..., None]
    try:
        compiled = njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder to keep the machine code in
        compiled = njit(function, nogil=True, error_model="numpy")
    return compiled


@cache
def has_numba() -> bool:
    """Whether Numba can be imported."""
    try:
        import_module("numba")
    except ImportError:
        return False
    return True


def loops(module: str) -> ModuleType | None:
    """A module of compiled loops by its full name, ``None`` where Numba cannot be imported."""
    return import_module(module) if has_numba() else None


def fallback_reason(tensor: Tensor) -> str | None:
    """Why compiled loops do not serve for a tensor, ``None`` if they do."""
    if not has_numba():
        return "Numba cannot be imported"
    if tensor.device.type != "cpu":
        return f"it runs on {tensor.device.type}"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"its values are {tensor.dtype}"
    return None


def exact_products(device: torch.device) -> AbstractContextManager[Any]:
    """While it is open, convolutions in float32 are that, and the same every time.

    cuDNN rounds their factors to TF32's 10 bits by default, and sums weight gradients in an order
    that changes from run to run.

    Args:
        device: where the products are computed.
    """
    if device.type == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def piece_bytes(device: torch.device) -> int:
    """How many bytes of inputs or currents of a block are computed at a time."""
    return PIECE_BYTES if device.type == "cpu" else DEVICE_PIECE_BYTES
