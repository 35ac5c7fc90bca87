"""What each node computes, given its (sliced) tensors. Shared by simulation and training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_gym.snn.graph import Kind, Node

Tensors = Mapping[str, Tensor]


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
        return unfold(F.linear(folded, weight, bias), value)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    convolve: Callable[..., Tensor] = F.conv1d if isinstance(module, nn.Conv1d) else F.conv2d
    groups = folded.shape[1] // weight.shape[1]
    out = convolve(folded, weight, bias, module.stride, module.padding, module.dilation, groups)
    return unfold(out, value)


def normalise(module: nn.Module, tensors: Tensors, value: Tensor) -> Tensor:
    """BatchNorm with given statistics, ``(time, batch, channels, ...)`` to the same."""
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    out = F.batch_norm(
        fold(value),
        tensors["running_mean"],
        tensors["running_var"],
        tensors.get("weight"),
        tensors.get("bias"),
        False,
        0.0,
        module.eps,
    )
    return unfold(out, value)


def combine(node: Node, values: list[Tensor]) -> Tensor:
    """Parameter-free nodes: pooling, flatten, addition, concatenation; dropout as identity.

    Args:
        node: the node.
        values: its inputs, ``(time, batch, channels, ...)``; a static one has a time axis of 1.
    """
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
    return unfold(node.function(fold(values[0])), values[0])


def fire(
    neuron: snn.Leaky, tensors: Tensors, current: Tensor, num_steps: int, *, membrane: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Runs a layer of ``snntorch.Leaky`` neurons over time, without gradients.

    The order of floating-point operations is snnTorch's own, so spikes are equal.

    Args:
        neuron: for the reset mechanism and its delay.
        tensors: (sliced) beta, threshold and graded_spikes_factor.
        current: ``(time, batch, channels, ...)``, a time axis of 1 for a static input.
        num_steps: time steps T.
        membrane: also return the membrane potential after every step.

    Returns:
        Spikes and (if asked for) membrane potentials, ``(num_steps, batch, channels, ...)``.
    """
    beta = _scalar(tensors["beta"].clamp(0, 1))
    threshold = _scalar(tensors["threshold"])
    factor = _scalar(tensors["graded_spikes_factor"])
    spikes = current.new_empty(num_steps, *current.shape[1:])
    trace = torch.empty_like(spikes) if membrane else None
    mem = torch.zeros_like(current[0])
    reset = torch.zeros_like(mem)
    for step in range(num_steps):
        if neuron.reset_mechanism == "zero":
            mem.mul_(1 - reset)
        mem.mul_(beta).add_(current[step if len(current) > 1 else 0])
        if neuron.reset_mechanism == "subtract":
            mem.sub_(reset * threshold)
        fired = spikes[step]
        torch.gt(mem, threshold, out=fired)
        if not neuron.reset_delay and neuron.reset_mechanism != "none":
            correction = fired - reset
            size = threshold if neuron.reset_mechanism == "subtract" else mem
            mem = mem - correction * size
            reset = (mem > threshold).to(mem.dtype)
        else:
            reset = fired
        if trace is not None:
            trace[step] = mem
    if not (isinstance(factor, float) and factor == 1.0):
        spikes = spikes * factor
    return spikes, trace


def _scalar(value: Tensor) -> Tensor | float:
    return float(value) if value.numel() == 1 else value
