"""What each node computes, given its (sliced) tensors. Shared by simulation and training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_gym import device
from spear_gym.simulation.gradients import MaxPoolHalves
from spear_gym.snn.graph import Kind, Node
from spear_gym.snn.neurons import Tensors

Affine = tuple[Tensor, Tensor]


def fold(value: Tensor) -> Tensor:
    """``(time, batch, ...)`` -> ``(time * batch, ...)``."""
    return value.flatten(0, 1)


def unfold(value: Tensor, like: Tensor) -> Tensor:
    """``(time * batch, ...)`` -> ``(time, batch, ...)`` with the leading axes of ``like``."""
    return value.reshape(*like.shape[:2], *value.shape[1:])


def connect(node: Node, module: nn.Module, tensors: Tensors, value: Tensor) -> Tensor:
    """A convolution or linear layer.

    Args:
        node: the node.
        module: its module, for the geometry.
        tensors: its (sliced) weight and bias.
        value: ``(time, batch, channels, ...)``.

    Returns:
        ``(time, batch, channels, ...)``.
    """
    weight, bias = tensors["weight"], tensors.get("bias")
    folded = fold(value)
    if node.kind is Kind.LINEAR:
        if folded.dim() > 2:  # of every token
            return unfold(F.linear(folded.movedim(1, -1), weight, bias).movedim(-1, 1), value)
        return unfold(F.linear(folded, weight, bias), value)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    convolve: Callable[..., Tensor] = F.conv1d if isinstance(module, nn.Conv1d) else F.conv2d
    groups = folded.shape[1] // weight.shape[1]
    out = convolve(folded, weight, bias, module.stride, module.padding, module.dilation, groups)
    return unfold(out, value)


def normalise(
    module: nn.Module, tensors: Tensors, value: Tensor, *, in_place: bool = False
) -> Tensor:
    """BatchNorm with given statistics, as one scale and one shift per channel.

    PyTorch's own kernel computes the same scale and shift, several times slower on a CPU.

    Args:
        module: for epsilon.
        tensors: (sliced) running statistics, weight and bias.
        value: ``(time, batch, channels, ...)``.
        in_place: overwrite ``value``.
    """
    return apply_affine(value, affine_of(module, tensors), in_place=in_place)


def affine_of(module: nn.Module, tensors: Tensors) -> Affine:
    """BatchNorm with given statistics as a scale and a shift, each ``(channels,)``.

    Args:
        module: for epsilon.
        tensors: (sliced) running statistics, weight and bias.
    """
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    scale = (tensors["running_var"] + module.eps).rsqrt()
    if "weight" in tensors:
        scale = scale * tensors["weight"]
    shift = -tensors["running_mean"] * scale
    if "bias" in tensors:
        shift = shift + tensors["bias"]
    return scale, shift


def apply_affine(value: Tensor, affine: Affine, *, in_place: bool) -> Tensor:
    """Scales and shifts every channel, by ``(channels,)`` or by ``(time, channels)``."""
    shape = channel_shape(value)
    if affine[0].dim() == 2:  # one for every time step
        shape = (len(affine[0]), 1, *shape)
    scale, shift = affine[0].view(shape), affine[1].view(shape)
    scaled = value.mul_(scale) if in_place else value * scale
    return scaled.add_(shift)


def channel_shape(value: Tensor) -> tuple[int, ...]:
    """The shape in which ``(channels,)`` broadcasts against ``(time, batch, channels, ...)``."""
    return (-1, *(1,) * (value.dim() - 3))


def channel_moments(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of ``(time, batch, channels, ...)``.

    Two passes (mean first), summed in an order that is quick on a CPU.
    """
    count = value.numel() // value.shape[2]
    mean = _channel_sum(value) / count
    centred = value - mean.view(channel_shape(value))
    return mean, _channel_sum(centred.square_()) / count


def moments_of(node: Node, value: Tensor) -> tuple[Tensor, Tensor]:
    """The moments that a BatchNorm is recalibrated to, of every time step where it has one each.

    Args:
        node: the BatchNorm.
        value: what it reads, ``(time, batch, channels, ...)``.
    """
    if not node.of_steps:
        return channel_moments(value)
    means, variances = zip(*(channel_moments(frame[None]) for frame in value), strict=True)
    return torch.stack(means), torch.stack(variances)


def _channel_sum(value: Tensor) -> Tensor:
    positions = value.flatten(3).sum(3) if value.dim() > 3 else value
    return positions.sum((0, 1))


def combine(node: Node, values: list[Tensor], owned: Tensors | None = None) -> Tensor:
    """Pooling, flatten, addition, concatenation, operations; dropout as identity.

    Args:
        node: the node.
        values: its inputs, ``(time, batch, channels, ...)``; a static one has a time axis of 1.
        owned: the network's tensors that an operation uses (sliced, perhaps), by path.
    """
    if node.operation is not None:
        steps = max(value.shape[0] for value in values)
        shown = [v.expand(steps, *v.shape[1:]) for v in values]
        return unfold(node.operation([fold(v) for v in shown], owned or {}), shown[0])
    if node.kind is Kind.ADD:
        return values[0] + values[1]
    if node.kind is Kind.CONCAT:
        steps = max(value.shape[0] for value in values)
        return torch.cat([v.expand(steps, *v.shape[1:]) for v in values], dim=2)
    if node.kind is Kind.FLATTEN:
        return values[0].flatten(2)
    if node.kind is Kind.DROPOUT:
        return values[0]
    assert node.function is not None
    return unfold(pool(node.function, fold(values[0])), values[0])


def pool(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """A pooling function; max pooling by 2 without overlap goes a way that is faster on a CPU.

    Args:
        function: as recorded in the graph.
        value: ``(batch, channels, height, width)`` or ``(batch, channels, length)``; bytes only
            for max pooling.
    """
    if not _halves(function, value):
        return (
            function(value.float()).to(value.dtype)
            if value.dtype == torch.uint8
            else function(value)
        )
    if value.requires_grad:
        # The library's own kernel, or one like it, decides which of equal maxima is given them.
        if device.fallback_reason(value) is not None:
            return function(value)
        return MaxPoolHalves.apply(value)  # type: ignore[no-untyped-call, no-any-return]
    spikes_here = value.dtype == torch.uint8 and value.device.type == "cpu"
    loops = device.loops("spear_gym.simulation.loops") if spikes_here else None
    if loops is not None:
        out = value.new_empty(*value.shape[:-2], value.shape[-2] // 2, value.shape[-1] // 2)
        loops.pool_spikes(value.contiguous().flatten(0, -3).numpy(), out.flatten(0, -3).numpy())
        return out
    rows = torch.maximum(value[..., ::2, :], value[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _halves(function: Callable[[Tensor], Tensor], value: Tensor) -> bool:
    if not isinstance(function, partial) or function.func is not F.max_pool2d:
        return False
    options = function.keywords
    twos = (2, (2, 2), [2, 2])
    return (
        options.get("kernel_size") in twos
        and options.get("stride", 2) in twos
        and options.get("padding", 0) in (0, (0, 0), [0, 0])
        and options.get("dilation", 1) in (1, (1, 1), [1, 1])
        and value.shape[-1] % 2 == 0
        and value.shape[-2] % 2 == 0
    )
