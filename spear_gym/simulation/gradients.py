"""Hand-written backward passes of normalisation and pooling.

Autograd would keep more and pass over memory more often. They are compared with PyTorch's own in
the tests.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from spear_gym import device


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
        centred = value - _spread_like(mean, value)
        variance = _sums(centred.square()) / count
        inverse = (variance + eps).rsqrt()
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance)
        if device.fallback_reason(value) is None:
            out = torch.empty_like(centred)
            _norm_forward(value, mean, inverse, weight, bias, centred, out)
            ctx.save_for_backward(centred, inverse, weight)
            return out, mean, variance
        normalised = centred.mul_(_spread_like(inverse, value))
        ctx.save_for_backward(normalised, inverse, weight)
        out = normalised
        if weight is not None:
            out = normalised * _spread_like(weight[None], value)
        if bias is not None:
            out = (
                out + _spread_like(bias[None], value)
                if weight is None
                else out.add_(_spread_like(bias[None], value))
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
            if device.fallback_reason(grad) is None:
                grad_value = torch.empty_like(normalised)
                _norm_backward(normalised, grad, -along / count, total / count, factor, grad_value)
                return grad_value, grad_weight, grad_bias, None
            grad_value = normalised * _spread_like(-along / count, grad)
            grad_value.add_(grad).sub_(_spread_like(total / count, grad))
            grad_value.mul_(_spread_like(factor, grad))
        return grad_value, grad_weight, grad_bias, None


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


# ---------------------------------------------------------------- compiled loops


def _loops() -> ModuleType:
    module = device.loops("spear_gym.simulation.loops")
    assert module is not None
    return module


def _planes(value: Tensor) -> Any:
    return value.detach().contiguous().flatten(0, -3).numpy()


def _images(value: Tensor) -> Any:
    """``(time, batch, channels, ...)`` as ``(time, batch, channels, positions)``."""
    return value.detach().contiguous().view(*value.shape[:3], -1).numpy()


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


def _sums(value: Tensor) -> Tensor:
    """Sum over batch and positions, ``(time, channels)``, in an order quick on a CPU."""
    positions = value.flatten(3).sum(3) if value.dim() > 3 else value
    return positions.sum(1)


def _spread_like(value: Tensor, like: Tensor) -> Tensor:
    """``(time, channels)`` broadcast against ``(time, batch, channels, ...)``."""
    return value.view(value.shape[0], 1, value.shape[1], *(1,) * (like.dim() - 3))
