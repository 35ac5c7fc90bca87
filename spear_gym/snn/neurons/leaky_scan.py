"""Leaky neurons in training: all time steps as one operation with a hand-written backward pass.

Autograd would record every time step by itself. The tests compare it with snnTorch's own loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from spear_gym import device

RESET_CODES = {"none": 0, "subtract": 1, "zero": 2}
"""Reset mechanisms, as the compiled loops are told them."""


class LeakyScan(Function):
    """A layer of leaky neurons over time with fixed beta and threshold, reset one step later.

    Membrane u_t = beta * u_{t-1} + x_t - r_{t-1} * threshold ("subtract"), or with u_{t-1} set to
    zero where it fired ("zero"); spike s_t = H(u_t - threshold); the reset r is detached.
    """

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        beta: Tensor,
        threshold: Tensor,
        num_steps: int,
        reset: str,
        surrogate: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Runs all steps.

        Args:
            ctx: autograd's.
            current: ``(time, batch, ...)``, a time axis of 1 for a static input.
            beta: decay, already clamped to [0, 1].
            threshold: firing threshold.
            num_steps: time steps T.
            reset: ``"subtract"``, ``"zero"`` or ``"none"``.
            surrogate: the user's spike function, whose derivative backward takes.

        Returns:
            Spikes ``(num_steps, batch, ...)``.
        """
        membranes = current.new_empty(num_steps, *current.shape[1:])
        spikes = torch.empty_like(membranes)
        ctx.save_for_backward(membranes, beta, threshold)
        ctx.reset, ctx.surrogate, ctx.static = reset, surrogate, len(current) == 1
        if device.fallback_reason(current) is None:
            _leaky_forward(current, beta, threshold, reset, membranes, spikes)
            return spikes
        for step in range(num_steps):
            now, mem = current[step if len(current) > 1 else 0], membranes[step]
            if step == 0:
                mem.copy_(now)
            elif reset == "zero":
                torch.mul(membranes[step - 1], 1 - spikes[step - 1], out=mem)
                mem.mul_(beta).add_(now)
            else:
                torch.mul(membranes[step - 1], beta, out=mem)
                mem.add_(now)
                if reset == "subtract":
                    mem.sub_(spikes[step - 1] * threshold)
            torch.gt(mem, threshold, out=spikes[step])
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Back through time; the surrogate's derivative is taken for all steps at once."""
        membranes, beta, threshold = ctx.saved_tensors
        sharpness = arctan_sharpness(ctx.surrogate)
        if sharpness is not None and device.fallback_reason(grad) is None:
            zero = ctx.reset == "zero"
            carried = _leaky_backward(membranes, beta, threshold, zero, sharpness, grad)
            summed = carried.sum(0, keepdim=True) if ctx.static else carried
            return summed, None, None, None, None, None
        slope = _derivative(ctx.surrogate, membranes - threshold)
        carried = slope.mul_(grad)
        for step in range(len(carried) - 2, -1, -1):
            back = carried[step + 1] * beta
            if ctx.reset == "zero":
                back.mul_((membranes[step] <= threshold).to(back.dtype))
            carried[step].add_(back)
        summed = carried.sum(0, keepdim=True) if ctx.static else carried
        return summed, None, None, None, None, None


@lru_cache(maxsize=64)
def arctan_sharpness(surrogate: Callable[[Tensor], Tensor]) -> float | None:
    """The parameter of a surrogate that is snnTorch's ``atan``, ``None`` for any other.

    The closed form is compared with the surrogate's own backward before it is trusted.
    """
    named = (getattr(surrogate, "__module__", ""), getattr(surrogate, "__qualname__", ""))
    cells = getattr(surrogate, "__closure__", None)
    if named != ("snntorch.surrogate", "atan.<locals>.inner") or not cells:
        return None
    sharpness = cells[0].cell_contents
    if not isinstance(sharpness, int | float):
        return None
    at = torch.linspace(-4, 4, 33, dtype=torch.float64)
    closed = sharpness / 2 / (1 + (math.pi / 2 * sharpness * at) ** 2)
    return float(sharpness) if torch.allclose(_derivative(surrogate, at), closed) else None


# ---------------------------------------------------------------- compiled loops


def _loops() -> ModuleType:
    module = device.loops("spear_gym.snn.neurons.leaky_loops")
    assert module is not None
    return module


def _rows(value: Tensor) -> Any:
    """``(time, batch, ...)`` as ``(time, batch, neurons)``."""
    return value.detach().contiguous().flatten(2).numpy()


def _per_neuron(value: Tensor, like: Tensor) -> Any:
    """A parameter that broadcasts against ``(batch, *row)``, one entry per neuron."""
    spread = value.detach().to(like.dtype).expand(1, *like.shape[2:]).reshape(-1)
    return spread.contiguous().numpy()  # or the compiled loops are not vectorised


def _leaky_forward(
    current: Tensor, beta: Tensor, threshold: Tensor, reset: str, membranes: Tensor, spikes: Tensor
) -> None:
    _loops().forward(
        _rows(current),
        _per_neuron(beta, current),
        _per_neuron(threshold, current),
        RESET_CODES[reset],
        membranes.flatten(2).numpy(),
        spikes.flatten(2).numpy(),
    )


def _leaky_backward(
    membranes: Tensor, beta: Tensor, threshold: Tensor, zero: bool, sharpness: float, grad: Tensor
) -> Tensor:
    out = torch.empty_like(membranes)
    constants = torch.tensor([math.pi / 2 * sharpness, sharpness / 2, 1.0], dtype=membranes.dtype)
    _loops().backward(
        _rows(membranes),
        _per_neuron(beta, membranes),
        _per_neuron(threshold, membranes),
        zero,
        constants.numpy(),
        _rows(grad),
        out.flatten(2).numpy(),
    )
    return out


def _derivative(surrogate: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Elementwise derivative of a surrogate, through its own backward."""
    with torch.enable_grad():
        point = at.detach().requires_grad_(True)
        spikes = surrogate(point)
        if not spikes.requires_grad:  # a surrogate that is disabled
            return torch.zeros_like(at)
        (slope,) = torch.autograd.grad(spikes, point, torch.ones_like(spikes))
    return slope
