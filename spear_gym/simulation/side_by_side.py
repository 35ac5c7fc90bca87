"""The same layer of several plans as one operation, for devices on which a launch costs more.

Plans differ in width, so their channels stand next to each other on one channel axis, each plan's
filled up to the width of the widest: plan n has the channels from n * width. Weights are filled up
with 0, and nothing reads what comes out of such a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spear_gym.simulation.layers import (
    Affine,
    affine_of,
    channel_moments,
    connect,
    fold,
    unfold,
)
from spear_gym.simulation.run import Run, run_in_pieces
from spear_gym.simulation.structure import Block
from spear_gym.snn.graph import Kind, Node, SpikingGraph
from spear_gym.snn.neurons import Tensors, own_tensors


def connect_side_by_side(node: Node, module: nn.Module, stacked: Tensors, value: Tensor) -> Tensor:
    """A convolution or linear layer of N plans.

    Args:
        node: the node.
        module: its module, for the geometry.
        stacked: weight and bias of the plans, :func:`beside` each other.
        value: what the layer reads, ``(time, batch, N, channels, ...)``, or
            ``(time, batch, channels, ...)`` where all plans read the same.

    Returns:
        ``(time, batch, N * width, ...)``, the width being the most output channels of a plan.
    """
    weight, bias = stacked["weight"], stacked.get("bias")
    shared = value.dim() == weight.dim()
    if shared or node.kind is not Kind.LINEAR:
        flat = {name: tensor.flatten(0, 1) for name, tensor in stacked.items()}
        return connect(node, module, flat, value if shared else value.flatten(2, 3))
    rows, columns = fold(value).transpose(0, 1), weight.transpose(1, 2)
    # The bias within the product: in bfloat16 it would else be rounded twice.
    out = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)
    return unfold(out.transpose(0, 1).flatten(1), value)


def affine_side_by_side(affines: Sequence[Affine]) -> Affine:
    """Scales and shifts of N plans, each ``(N * width,)``."""
    scales, shifts = zip(*affines, strict=True)
    return beside(scales, 0).flatten(), beside(shifts, 0).flatten()


def beside(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Stacks tensors at ``axis``, zeros filling up those that are smaller than others."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    out = tensors[0].new_zeros(*shape[:axis], len(tensors), *shape[axis:])
    for row, tensor in zip(out.unbind(axis), tensors, strict=True):
        row[tuple(slice(size) for size in tensor.shape)] = tensor
    return out


def fits_side_by_side(graph: SpikingGraph, block: Block) -> bool:
    """Whether no channel of a block acts on another, which may be another plan's.

    Plans' channels are filled up at the end, which the groups of a convolution do not allow; a
    depthwise one has one channel in each.
    """
    module, neuron = graph.module(block.connection), block.neuron.neuron
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups not in (1, module.in_channels):
        return False
    return neuron is not None and neuron.wiring in (None, "one-to-one")


class SideBySide:
    """A block of several runs as one operation: what a run does for itself.

    Args:
        block: what is run.
        runs: that stand before it.
    """

    def __init__(self, block: Block, runs: Sequence[Run]) -> None:
        self.block, self.runs = block, runs
        self.prepared, self.graph = runs[0].prepared, runs[0].graph
        self.sources = [run.values[block.connection.inputs[0]] for run in runs]
        self.tensors = [run.connection(block.connection) for run in runs]
        self.channels = [len(tensors["weight"]) for tensors in self.tensors]
        self.stacked = {
            name: self.prepared.operand(beside([each[name] for each in self.tensors], 0))
            for name in self.tensors[0]
        }
        alike = all(source is self.sources[0] for source in self.sources)
        grouped = self.sources[0].shape[2] != self.stacked["weight"].shape[2]
        self.shared = alike and not grouped

    def run(self) -> None:
        """Computes the block, and hands each run its part."""
        block, node = self.block, self.block.neuron
        sliced = [run.tensors(node) for run in self.runs]
        layer = self.runs[0].layer(node, self._neurons_side_by_side(node, sliced))
        largest = max(
            self.runs[0].sample_bytes(block, source, tensors)
            for source, tensors in zip(self.sources, self.tensors, strict=True)
        )
        size = largest * len(self.runs)
        run_in_pieces(block, self.prepared, layer, size, self._connect, self._affine)
        spikes, counts = layer.spikes(), layer.counts()
        if counts is None:
            counts = torch.count_nonzero(self.prepared.scored(spikes), (0, 1)).cpu()
        # A copy each, so that a walk in memory does not hold on to the others' spikes.
        parts = zip(self.runs, self._parts(spikes, 2), self._parts(counts, 0), strict=True)
        for run, fired, counted in parts:
            run.end_block(block, f"{layer.way}, side by side", fired.clone(), counted)

    def _connect(self, samples: slice) -> Tensor:
        node = self.block.connection
        read = [source[:, samples] for source in self.sources]
        value = self.prepared.operand(read[0] if self.shared else beside(read, 2))
        current = connect_side_by_side(node, self.graph.module(node), self.stacked, value)
        return current.to(self.prepared.inputs.dtype)

    def _affine(self, norm: Node, current: Tensor | None) -> Affine:
        moments: list[tuple[Tensor, Tensor] | None] = [None] * len(self.runs)
        if current is not None:
            mean, variance = (self._parts(each, 0) for each in channel_moments(current))
            moments = list(zip(mean, variance, strict=True))
        module = self.graph.module(norm)
        return affine_side_by_side(
            [
                affine_of(module, run.norm(norm, found))
                for run, found in zip(self.runs, moments, strict=True)
            ]
        )

    def _neurons_side_by_side(self, node: Node, tensors: Sequence[Tensors]) -> Tensors:
        """The tensors of a neuron layer of all runs, given each run's."""
        neuron, module = self.graph.neuron(node), self.graph.module(node)
        stacked: dict[str, Tensor] = {}
        for name, whole in own_tensors(neuron, module).items():
            stacked[name] = whole  # one for all channels, so for all plans
            for axis in neuron.axes(name, whole, len(node.shape)):
                each = beside([sliced[name] for sliced in tensors], axis)
                stacked[name] = each.flatten(axis, axis + 1)
        return stacked

    def _parts(self, value: Tensor, axis: int) -> list[Tensor]:
        """Each run's channels."""
        width = max(self.channels)
        return [value.narrow(axis, n * width, size) for n, size in enumerate(self.channels)]
