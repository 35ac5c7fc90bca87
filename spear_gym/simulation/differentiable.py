"""The same pass with gradients: time folded into the batch, the user's own surrogate gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from spear_gym.simulation.gradients import StepNorm
from spear_gym.simulation.layers import combine, connect, fold, normalise, unfold
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, SpikingGraph, owned_tensors
from spear_gym.snn.neurons import Tensors, over_time, own_tensors

BnTime = Literal["step", "pooled"]

Reading = Callable[[Node, Tensor], Tensor]
"""Called with a connection, a neuron layer or a product of two activations, and what it reads
(first); it reads the answer instead."""


class Recurring(Protocol):
    """Watches or changes what recurrent neuron layers do."""

    def tensors(self, node: Node, tensors: Tensors) -> Tensors:
        """The tensors that the layer is run with, given its own."""

    def fired(self, node: Node, spikes: Tensor) -> None:
        """Its spikes, ``(num_steps, batch, channels, ...)``."""


def forward(
    graph: SpikingGraph,
    inputs: Tensor,
    num_steps: int,
    *,
    training: bool,
    bn_time: BnTime = "step",
    reading: Reading | None = None,
) -> Tensor:
    """The scores of a batch, ``(batch, classes)``; see :func:`outputs_over_time`."""
    return graph.scores(
        outputs_over_time(
            graph, inputs, num_steps, training=training, bn_time=bn_time, reading=reading
        )
    )


def outputs_over_time(
    graph: SpikingGraph,
    inputs: Tensor,
    num_steps: int,
    *,
    training: bool,
    bn_time: BnTime = "step",
    reading: Reading | None = None,
    recurring: Recurring | None = None,
) -> Tensor:
    """What the output layer does, differentiable in the parameters of ``graph.model``.

    Args:
        graph: a traced network, pruned or not.
        inputs: ``(batch, channel, ...)``, or ``(batch, time, channel, ...)`` when it varies.
        num_steps: time steps T.
        training: BatchNorm normalises by the batch and updates its running statistics; dropout
            drops.
        bn_time: ``"step"`` normalises each time step by itself, as snnTorch's loop does;
            ``"pooled"`` all of them together.
        reading: watches or changes what connections and neurons read,
            ``(time, batch, channels, ...)``, a time axis of 1 for a static value.
        recurring: watches or changes recurrent neuron layers.

    Returns:
        ``(time, batch, outputs)``: currents, spikes or membrane potentials (``graph.readout``).
    """
    values: dict[int, Tensor] = {}
    for node in graph.nodes:
        sources = [values[i] for i in node.inputs]
        if reading is not None and _is_read(node):
            sources[0] = reading(node, sources[0])
        if node.kind is Kind.INPUT:
            value = inputs.transpose(0, 1) if graph.varying else inputs[None]
        elif node.kind in CONNECTIONS:
            module = graph.module(node)
            # Under autocast a product is bfloat16; what follows it is computed at full precision.
            value = connect(node, module, dict(module.named_parameters()), sources[0])
            value = value.to(inputs.dtype)
        elif node.kind is Kind.NORM:
            time: BnTime = bn_time if node.at_once is None else "pooled"
            value = _norms(graph, node, sources[0], num_steps, training, time)
        elif node.kind is Kind.NEURON:
            value = _fire(graph, node, sources[0], num_steps, recurring)
        elif node.kind is Kind.DROPOUT and training:
            value = _drop(graph, node, sources[0].expand(num_steps, *sources[0].shape[1:]))
        elif node.operation is not None:
            value = combine(node, sources, owned_tensors(graph, node))
        else:
            value = combine(node, sources)
        values[node.index] = value
    output = values[graph.output]
    return output.expand(num_steps, *output.shape[1:])


def _is_read(node: Node) -> bool:
    product = node.operation is not None and node.operation.columns > 0
    return node.kind in CONNECTIONS or node.kind is Kind.NEURON or product


def _fire(
    graph: SpikingGraph,
    node: Node,
    current: Tensor,
    num_steps: int,
    recurring: Recurring | None,
) -> Tensor:
    """A layer of neurons over time, with its surrogate gradient.

    Args:
        graph: the network.
        node: the layer.
        current: ``(time, batch, ...)``, a time axis of 1 for a static input.
        num_steps: time steps T.
        recurring: see :func:`forward`.

    Returns:
        What is read of it, spikes or membrane potentials, ``(num_steps, batch, ...)``.
    """
    neuron, module = graph.neuron(node), graph.module(node)
    membrane = graph.reads_membrane(node)
    if not membrane and neuron.training_fallback(module) is None:
        return neuron.scan(module, current, num_steps)
    tensors: Tensors = own_tensors(neuron, module)
    watched = recurring if neuron.wiring is not None else None
    if watched is not None:
        tensors = watched.tensors(node, tensors)
    steps = list(over_time(neuron, module, tensors, current, num_steps, training=True))
    if watched is not None:
        watched.fired(node, torch.stack([spikes for spikes, _ in steps]))
    return torch.stack([mem if membrane else spikes for spikes, mem in steps])


COMPILED = "training of neurons: compiled by Numba"
"""How the statistics name the fast way; every other entry is a fallback."""


def training_ways(graph: SpikingGraph, inputs: Tensor) -> Counter[str]:
    """How the neuron layers of a network are trained; names every fallback.

    Args:
        graph: the network.
        inputs: a tensor like those that it is trained on.
    """
    ways: Counter[str] = Counter()
    for node in graph.neurons:
        ways[_way(graph, node, inputs)] += 1
    return ways


def _way(graph: SpikingGraph, node: Node, inputs: Tensor) -> str:
    neuron, module = graph.neuron(node), graph.module(node)
    read = "its membrane is read out" if graph.reads_membrane(node) else None
    reason = read or neuron.training_fallback(module)
    if reason is not None:
        return f"training of neurons: step by step, because {reason}"
    reason = neuron.scan_fallback(module, inputs)
    return COMPILED if reason is None else f"training of neurons: {reason}"


def _norms(
    graph: SpikingGraph,
    node: Node,
    value: Tensor,
    num_steps: int,
    training: bool,
    bn_time: BnTime,
) -> Tensor:
    """A BatchNorm, or one for every time step."""
    if not node.of_steps:
        return _norm(graph.module(node), value, num_steps, training, bn_time)
    frames = value.expand(num_steps, *value.shape[1:]).split(1)
    modules = graph.modules_of_steps(node)
    pairs = zip(modules, frames, strict=True)
    return torch.cat([_norm(module, frame, 1, training, "step") for module, frame in pairs])


def _norm(
    module: nn.Module, value: Tensor, num_steps: int, training: bool, bn_time: BnTime
) -> Tensor:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    if not training:
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        return normalise(module, tensors, value)
    if module.momentum is None:
        raise ValueError("BatchNorm with momentum=None (cumulative average) cannot be fine-tuned")
    frames = fold(value)[None] if bn_time == "pooled" else value
    out, mean, variance = StepNorm.apply(  # type: ignore[no-untyped-call]
        frames, module.weight, module.bias, module.eps
    )
    # A static value is normalised T times by the step loop, always alike.
    repeats = num_steps if len(value) == 1 and bn_time == "step" else 1
    count = frames.numel() // (frames.shape[0] * frames.shape[2])
    if count < 2:
        raise ValueError(
            f"BatchNorm in training sees {count} value per channel; it needs at least 2: raise the "
            "batch size"
        )
    for step in range(len(frames) * repeats):
        index = 0 if len(frames) == 1 else step
        _update_statistics(module, mean[index], variance[index] * (count / (count - 1)))
    return out.reshape(value.shape)  # type: ignore[no-any-return]


@torch.no_grad()
def _update_statistics(
    module: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor
) -> None:
    """Moves the running statistics as BatchNorm does, by its momentum, unbiased variance."""
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.momentum is not None
    module.running_mean.lerp_(mean, module.momentum)
    module.running_var.lerp_(variance, module.momentum)
    if module.num_batches_tracked is not None:
        module.num_batches_tracked += 1


def _drop(graph: SpikingGraph, node: Node, value: Tensor) -> Tensor:
    # Some drop whole channels of a (batch, channel, ...) tensor, so time is folded.
    if node.function is not None:
        return unfold(node.function(fold(value), training=True), value)  # type: ignore[call-arg]
    return unfold(graph.module(node)(fold(value)), value)
