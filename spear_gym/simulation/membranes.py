"""How strongly the neurons of each channel are driven: their mean absolute membrane potential."""

from __future__ import annotations

import torch
from torch import Tensor

from spear_gym.simulation.differentiable import forward
from spear_gym.snn.features import means_by_space
from spear_gym.snn.graph import Kind, Node, SpikingGraph
from spear_gym.snn.neurons import over_time, own_tensors

CHUNK = 256
"""Samples that are run at a time."""


@torch.no_grad()
def mean_absolute_membranes(
    graph: SpikingGraph, inputs: Tensor, num_steps: int
) -> dict[int, Tensor]:
    """Mean of |u| over samples, time steps and positions, BatchNorm at its own statistics.

    u is the membrane potential as snnTorch returns it after every step: before the reset of the
    spike fired at that step where the reset is delayed, which is the default.

    Args:
        graph: the network.
        inputs: ``(samples, channel, ...)``, or ``(samples, time, channel, ...)`` when it varies.
        num_steps: time steps T.

    Returns:
        Channel space -> ``(channels,)`` in float64, for all spaces that a neuron layer carries;
        the mean over the layers where several do.
    """
    sums: dict[int, Tensor] = {}

    def watch(node: Node, source: Tensor) -> Tensor:
        if node.kind is Kind.NEURON:
            neuron, module = graph.neuron(node), graph.module(node)
            tensors = own_tensors(neuron, module)
            steps = over_time(neuron, module, tensors, source, num_steps)
            membrane = torch.stack([mem for _, mem in steps]).abs().double()
            total = membrane.flatten(3).mean(3) if membrane.dim() > 3 else membrane
            total = total.mean(0).sum(0)
            sums[node.index] = sums[node.index] + total if node.index in sums else total
        return source

    for chunk in inputs.split(CHUNK):
        forward(graph, chunk, num_steps, training=False, reading=watch)
    found: dict[int, list[Tensor]] = {}
    for node in graph.neurons:
        for space, values in means_by_space(node.channels, sums[node.index] / len(inputs)):
            found.setdefault(space, []).append(values)
    return {space: torch.stack(values).mean(0) for space, values in found.items()}
