"""Products as they are asked for, on devices that would round them further by default."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


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
