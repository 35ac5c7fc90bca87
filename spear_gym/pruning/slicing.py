"""Parameters of one layer, sliced to the kept channels.

Simulation and surgery both take their weights from here, so a sliced run and the pruned network
cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spear_gym.snn.graph import (
    Kept,
    Kind,
    Node,
    SpikingGraph,
    kept_features,
    owned_tensors,
)
from spear_gym.snn.neurons import own_tensors


@dataclass(frozen=True, slots=True)
class Axes:
    """Kept indices along a node's input and output channel axes, ``None`` for all."""

    inputs: Tensor | None
    outputs: Tensor | None


def axes(graph: SpikingGraph, node: Node, kept: Kept) -> Axes:
    """Kept indices along the channel axes of a single-input node."""
    source = graph.nodes[node.inputs[0]]
    return Axes(kept_features(source.channels, kept), kept_features(node.channels, kept))


def sliced_tensors(graph: SpikingGraph, node: Node, kept: Kept) -> dict[str, Tensor]:
    """The tensors of a node's module that pruning changes, sliced.

    Args:
        graph: the unpruned graph.
        node: a node with a module, or an operation.
        kept: kept channels by space.

    Returns:
        Tensor name within the module, a path where it is an inner module's (for an operation its
        path) -> sliced tensor (the original where nothing is cut). Those of a BatchNorm with one
        module a time step are stacked.
    """
    if node.operation is not None:
        outputs = kept_features(node.channels, kept)
        own, along = owned_tensors(graph, node), node.operation.owned
        return {path: _take(tensor, along[path], outputs) for path, tensor in own.items()}
    module = graph.module(node)
    cut = axes(graph, node, kept)
    if node.kind is Kind.CONV:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        if module.groups > 1:
            return _grouped(module, cut)
        return _connection(module.weight, module.bias, cut.inputs, cut.outputs)
    if node.kind is Kind.LINEAR:
        assert isinstance(module, nn.Linear)
        return _connection(module.weight, module.bias, cut.inputs, cut.outputs)
    if node.kind is Kind.NORM:
        found = [_norm_tensors(norm, cut.outputs) for norm in graph.modules_of_steps(node)]
        if not node.of_steps:
            return found[0]
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}
    if node.kind is Kind.NEURON:
        neuron = graph.neuron(node)
        own = own_tensors(neuron, module)
        dims = len(node.shape)
        return {k: _cut(v, neuron.axes(k, v, dims), cut.outputs) for k, v in own.items()}
    return {}


def _norm_tensors(module: nn.Module, outputs: Tensor | None) -> dict[str, Tensor]:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    named = {
        "weight": module.weight,
        "bias": module.bias,
        "running_mean": module.running_mean,
        "running_var": module.running_var,
    }
    return {k: _take(v, 0, outputs) for k, v in named.items() if v is not None}


def _connection(
    weight: Tensor, bias: Tensor | None, inputs: Tensor | None, outputs: Tensor | None
) -> dict[str, Tensor]:
    sliced = {"weight": _take(_take(weight, 0, outputs), 1, inputs)}
    if bias is not None:
        sliced["bias"] = _take(bias, 0, outputs)
    return sliced


def _grouped(module: nn.Conv1d | nn.Conv2d, cut: Axes) -> dict[str, Tensor]:
    """A grouped convolution, of whose groups each keeps as many inputs and outputs.

    A row of the weight stands for the inputs of its own group only.
    """
    sliced = _connection(module.weight, module.bias, None, cut.outputs)
    each = module.in_channels // module.groups
    if cut.inputs is None or each == 1:
        return sliced  # depthwise: a channel that goes takes its rows with it
    weight = sliced["weight"]
    inputs = (cut.inputs.to(weight.device) % each).view(module.groups, -1)
    of_row = inputs.repeat_interleave(len(weight) // module.groups, dim=0)
    rows = torch.arange(len(weight), device=weight.device)[:, None]
    return {**sliced, "weight": weight[rows, of_row]}


def _cut(tensor: Tensor, along: tuple[int, ...], index: Tensor | None) -> Tensor:
    for axis in along:
        tensor = _take(tensor, axis, index)
    return tensor


def _take(tensor: Tensor, axis: int | None, index: Tensor | None) -> Tensor:
    if index is None or axis is None:
        return tensor
    return tensor.index_select(axis, index.to(tensor.device))
