"""Hand-written backward passes of the two operations that training spends its time in.

Autograd would record every time step by itself; these run all steps of a layer as one operation.
They are compared with snnTorch's own loop in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class StepNorm(Function):
    """BatchNorm in training, each index of the leading axis normalised by itself."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalises.

        Args:
            ctx: autograd's.
            value: ``(time, batch, channels, ...)``.
            weight: gamma ``(channels,)`` or ``None``.
            bias: beta ``(channels,)`` or ``None``.
            eps: added to the variance.

        Returns:
            The output, and per time step and channel the mean and the biased variance
            ``(time, channels)``.
        """
        count = value.numel() // (value.shape[0] * value.shape[2])
        mean = _sums(value) / count
        normalised = value - _spread(mean, value)
        variance = _sums(normalised.square()) / count
        inverse = (variance + eps).rsqrt()
        normalised.mul_(_spread(inverse, value))
        ctx.save_for_backward(normalised, inverse, weight)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance)
        out = normalised
        if weight is not None:
            out = normalised * _spread(weight[None], value)
        if bias is not None:
            out = (
                out + _spread(bias[None], value)
                if weight is None
                else out.add_(_spread(bias[None], value))
            )
        return (out.clone() if out is normalised else out), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Any, ...]:
        """The usual gradient of BatchNorm, per time step."""
        normalised, inverse, weight = ctx.saved_tensors
        count = grad.numel() // (grad.shape[0] * grad.shape[2])
        along = _sums(grad * normalised)
        total = _sums(grad)
        grad_weight = along.sum(0) if weight is not None else None
        grad_bias = total.sum(0) if ctx.has_bias else None
        grad_value = None
        if ctx.needs_input_grad[0]:
            factor = inverse if weight is None else inverse * weight
            grad_value = normalised * _spread(-along / count, grad)
            grad_value.add_(grad).sub_(_spread(total / count, grad))
            grad_value.mul_(_spread(factor, grad))
        return grad_value, grad_weight, grad_bias, None


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
        ctx.save_for_backward(membranes, beta, threshold)
        ctx.reset, ctx.surrogate, ctx.static = reset, surrogate, len(current) == 1
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Back through time; the surrogate's derivative is taken for all steps at once."""
        membranes, beta, threshold = ctx.saved_tensors
        slope = _derivative(ctx.surrogate, membranes - threshold)
        carried = slope.mul_(grad)
        for step in range(len(carried) - 2, -1, -1):
            back = carried[step + 1] * beta
            if ctx.reset == "zero":
                back.mul_((membranes[step] <= threshold).to(back.dtype))
            carried[step].add_(back)
        summed = carried.sum(0, keepdim=True) if ctx.static else carried
        return summed, None, None, None, None, None


def _derivative(surrogate: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Elementwise derivative of a surrogate, through its own backward."""
    with torch.enable_grad():
        point = at.detach().requires_grad_(True)
        spikes = surrogate(point)
        if not spikes.requires_grad:  # a surrogate that is disabled
            return torch.zeros_like(at)
        (slope,) = torch.autograd.grad(spikes, point, torch.ones_like(spikes))
    return slope


def _sums(value: Tensor) -> Tensor:
    """Sum over batch and positions, ``(time, channels)``, in an order quick on a CPU."""
    positions = value.flatten(3).sum(3) if value.dim() > 3 else value
    return positions.sum(1)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """``(time, channels)`` broadcast against ``(time, batch, channels, ...)``."""
    return value.view(value.shape[0], 1, value.shape[1], *(1,) * (like.dim() - 3))
