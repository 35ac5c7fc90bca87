"""One training step by us and by snnTorch's own loop: readout, gradients, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from reference import first, frames_of, reset_own
from torch import Tensor, nn

from spear_gym.simulation.differentiable import BnTime, forward
from spear_gym.snn.graph import SpikingGraph

STEPS = 4


class Arctan(torch.autograd.Function):
    """snnTorch's arctan surrogate without its final `.float()`, so that float64 stays float64."""

    @staticmethod
    def forward(ctx: Any, mem: Tensor) -> Tensor:
        ctx.save_for_backward(mem)
        return (mem > 0).to(mem.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (mem,) = ctx.saved_tensors
        return gradient / (1 + (torch.pi * mem) ** 2)


def arctan(mem: Tensor) -> Tensor:
    return Arctan.apply(mem)


def loop_readout(
    graph: SpikingGraph, model: nn.Module, inputs: Tensor, steps: int = STEPS
) -> Tensor:
    """The readout by a plain loop over time steps, differentiable."""
    reset_own(model)
    outputs = [first(model(frame)) for frame in frames_of(inputs, steps, graph.varying)]
    reset_own(model)
    recording = torch.stack(outputs)
    return recording.sum(0) if graph.readout == "spikes" else recording.mean(0)


def loss(readout: Tensor) -> Tensor:
    """Something that depends on every output in its own way."""
    weights = torch.linspace(-1, 2, readout.numel(), dtype=readout.dtype).view_as(readout)
    return (weights * readout + 0.1 * readout**2).sum()


def assert_close(one: Tensor, other: Tensor, what: str) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=lambda m: f"{what}: {m}")


def assert_same_training_step(
    graph: SpikingGraph,
    inputs: Tensor,
    reference: Callable[[SpikingGraph, nn.Module, Tensor], Tensor] = loop_readout,
    bn_time: BnTime = "step",
    steps: int = STEPS,
) -> nn.Module:
    """Compares readout, gradients and running statistics with a twin trained by ``reference``."""
    graph.model.double().train()
    twin = copy.deepcopy(graph.model)
    ours = forward(graph, inputs, steps, training=True, bn_time=bn_time)
    theirs = reference(graph, twin, inputs)
    assert_close(ours, theirs, "readout")
    loss(ours).backward()
    loss(theirs).backward()
    for (name, mine), other in zip(graph.model.named_parameters(), twin.parameters(), strict=True):
        expected = torch.zeros_like(other) if other.grad is None else other.grad
        assert_close(torch.zeros_like(mine) if mine.grad is None else mine.grad, expected, name)
    kept = twin.state_dict()
    for name, mine in graph.model.named_buffers():
        if name in kept:
            assert_close(mine, kept[name], name)
    return twin
