"""Hand-written backward passes of the two operations that training spends its time in.

Autograd would record every time step by itself; these run all steps of a layer as one operation.
They are compared with snnTorch's own loop in the tests.
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

from spear_gym.simulation.compiled import RESETS, obstacle, training_kernels


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
        centred = value - _spread(mean, value)
        variance = _sums(centred.square()) / count
        inverse = (variance + eps).rsqrt()
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance)
        if obstacle(value) is None:
            out = torch.empty_like(centred)
            _norm_forward(value, mean, inverse, weight, bias, centred, out)
            ctx.save_for_backward(centred, inverse, weight)
            return out, mean, variance
        normalised = centred.mul_(_spread(inverse, value))
        ctx.save_for_backward(normalised, inverse, weight)
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
            if obstacle(grad) is None:
                grad_value = torch.empty_like(normalised)
                _norm_backward(normalised, grad, -along / count, total / count, factor, grad_value)
                return grad_value, grad_weight, grad_bias, None
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
        ctx.save_for_backward(membranes, beta, threshold)
        ctx.reset, ctx.surrogate, ctx.static = reset, surrogate, len(current) == 1
        if obstacle(current) is None:
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
        if sharpness is not None and obstacle(grad) is None:
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


class MaxPoolHalves(Function):
    """Max pooling by 2 without overlap; the first of equal maxima receives the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """``(batch, channels, height, width)``, even, to half the height and width."""
        height, width = value.shape[-2] // 2, value.shape[-1] // 2
        out = value.new_empty(*value.shape[:-2], height, width)
        winner = torch.empty_like(out, dtype=torch.uint8)
        ctx.save_for_backward(winner)
        _loops().pool_forward(*map(_planes, (value, out, winner)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Every gradient goes to the entry that won."""
        (winner,) = ctx.saved_tensors
        height, width = 2 * grad.shape[-2], 2 * grad.shape[-1]
        out = grad.new_empty(*grad.shape[:-2], height, width)
        _loops().pool_backward(*map(_planes, (grad, winner, out)))
        return out


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
    module = training_kernels()
    assert module is not None
    return module


def _planes(value: Tensor) -> Any:
    return value.detach().contiguous().flatten(0, -3).numpy()


def _rows(value: Tensor) -> Any:
    """``(time, batch, ...)`` as ``(time, batch, neurons)``."""
    return value.detach().contiguous().flatten(2).numpy()


def _images(value: Tensor) -> Any:
    """``(time, batch, channels, ...)`` as ``(time, batch, channels, positions)``."""
    return value.detach().contiguous().view(*value.shape[:3], -1).numpy()


def _per_neuron(value: Tensor, like: Tensor) -> Any:
    """A parameter that broadcasts against ``(batch, *row)``, one entry per neuron."""
    spread = value.detach().to(like.dtype).expand(1, *like.shape[2:]).reshape(-1)
    return spread.contiguous().numpy()  # or the compiled loops are not vectorised


def _leaky_forward(
    current: Tensor, beta: Tensor, threshold: Tensor, reset: str, membranes: Tensor, spikes: Tensor
) -> None:
    _loops().leaky_forward(
        _rows(current),
        _per_neuron(beta, current),
        _per_neuron(threshold, current),
        RESETS[reset],
        membranes.flatten(2).numpy(),
        spikes.flatten(2).numpy(),
    )


def _leaky_backward(
    membranes: Tensor, beta: Tensor, threshold: Tensor, zero: bool, sharpness: float, grad: Tensor
) -> Tensor:
    out = torch.empty_like(membranes)
    constants = torch.tensor([math.pi / 2 * sharpness, sharpness / 2, 1.0], dtype=membranes.dtype)
    _loops().leaky_backward(
        _rows(membranes),
        _per_neuron(beta, membranes),
        _per_neuron(threshold, membranes),
        zero,
        constants.numpy(),
        _rows(grad),
        out.flatten(2).numpy(),
    )
    return out


def _norm_forward(
    value: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalised: Tensor,
    out: Tensor,
) -> None:
    channels = value.shape[2]
    weight = value.new_ones(channels) if weight is None else weight
    bias = value.new_zeros(channels) if bias is None else bias
    _loops().norm_forward(
        _images(value),
        mean.numpy(),
        inverse.numpy(),
        weight.detach().numpy(),
        bias.detach().numpy(),
        normalised.view(*value.shape[:3], -1).numpy(),
        out.view(*value.shape[:3], -1).numpy(),
    )


def _norm_backward(
    normalised: Tensor, grad: Tensor, along: Tensor, total: Tensor, factor: Tensor, out: Tensor
) -> None:
    _loops().norm_backward(
        _images(normalised),
        _images(grad),
        along.numpy(),
        total.numpy(),
        factor.detach().numpy(),
        out.view(*grad.shape[:3], -1).numpy(),
    )


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
