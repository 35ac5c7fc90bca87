"""The SpikingGraph: one time step of a spiking network, as a list of nodes.

A traced network is reduced to the operations of a single time step in execution order. Everything
later (plans, simulation, surgery, training) reads this graph and none of it reads the user's
``forward`` again.

Channels are tracked through the graph as *spaces*: a space is a set of channels that must be kept
or removed together. A node's channel axis is a sequence of :class:`Segment`, each naming its space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spear_gym.snn.decision import Decision, Recorded
from spear_gym.snn.neurons import Neuron
from spear_gym.snn.operations import Operation

Port = str
"""Of a node its ``"value"``; of a neuron ``"spikes"``, ``"membrane"``, or another state's name."""
Idiom = Literal["step", "loop"]
Axis = int | Literal["time-batch", "batch-time"] | None
"""Where time is in a tensor over all steps: an axis of its own, before or behind the samples in
the first axis, or nowhere."""


class Kind(StrEnum):
    """What a node of the graph computes."""

    INPUT = "input"
    CONV = "conv"
    LINEAR = "linear"
    NORM = "norm"
    NEURON = "neuron"
    POOL = "pool"
    DROPOUT = "dropout"
    FLATTEN = "flatten"
    ADD = "add"
    CONCAT = "concat"
    OPERATION = "operation"


CONNECTIONS = frozenset({Kind.CONV, Kind.LINEAR})


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of channels on a channel axis.

    Attributes:
        space: the channel space these channels belong to.
        size: number of channels of the space (unpruned).
        repeat: consecutive features per channel; above 1 behind a flatten (height x width).
    """

    space: int
    size: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a time step.

    Attributes:
        index: position in ``SpikingGraph.nodes``, which is execution order.
        kind: what it computes.
        name: module path, or the function's name made unique.
        inputs: indices of the nodes it reads.
        module: path of the module that owns its parameters, ``None`` for functions.
        function: the parameter-free operation of pools, flattens and dropouts.
        shape: output shape of one sample at one time step, unpruned, channels first.
        channels: the channel axis, as segments.
        static: the same at every time step (before the first neuron, input shown constantly).
        analog: reached from a non-event input without passing a neuron.
        neuron: how a neuron layer is simulated, ``None`` for all other kinds.
        operation: a function that is recorded as it is, ``None`` for all other kinds.
        moved: in the network's own tensor the channels are the last axis, not the second.
        at_once: where time is in the network's own tensor, of a layer that it computes for all
            time steps at once; ``None`` where it does so step by step.
        of_steps: paths of the modules of a BatchNorm that has one for every time step.
    """

    index: int
    kind: Kind
    name: str
    inputs: tuple[int, ...]
    module: str | None
    function: Callable[[Tensor], Tensor] | None
    shape: tuple[int, ...]
    channels: tuple[Segment, ...]
    static: bool
    analog: bool
    neuron: Neuron | None = None
    operation: Operation | None = None
    moved: bool = False
    at_once: Axis = None
    of_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrunableGroup:
    """Output channels that are kept or removed together: those of one layer, or of tied layers.

    Attributes:
        name: the first member's module path.
        space: the channel space.
        channels: number of channels, unpruned.
        members: indices of the connection nodes that produce these channels, execution order.
        blocks: the channels are so many runs of equal length, of each of which the same number is
            kept, since a grouped convolution reads or makes them.
    """

    name: str
    space: int
    channels: int
    members: tuple[int, ...]
    blocks: int = 1


@dataclass(frozen=True)
class SpikingGraph:
    """A traced spiking network.

    Attributes:
        model: the traced copy of the user's module, in eval mode, its neurons reset.
        nodes: operations of one time step in execution order; node 0 is the input.
        groups: the prunable groups in the order in which they are decided.
        output: the node whose value is read out.
        readout: what is recorded of it (docs/definitions.md, "Readout").
        varying: the input is a frame per time step; otherwise an image shown at every step.
        idiom: ``"step"`` (the module is one time step) or ``"loop"`` (it loops over time itself).
        traced_steps: time steps seen in the trace: 1 for ``"step"``.
        decision: how the recording over time becomes one score a class.
        batch_first: a module that loops over frames takes them as ``(batch, time, ...)``.
        place: where the output stands in what the module returns.
        fixed: why the channels of a space are never pruned, by space.
    """

    model: nn.Module
    nodes: tuple[Node, ...]
    groups: tuple[PrunableGroup, ...]
    output: int
    readout: Recorded
    varying: bool
    idiom: Idiom
    traced_steps: int
    decision: Decision = field(default_factory=Decision)
    batch_first: bool = False
    place: tuple[int | str, ...] = ()
    fixed: Mapping[int, str] = field(default_factory=dict)

    @property
    def connections(self) -> tuple[Node, ...]:
        """Convolutions and linear layers, in execution order."""
        return tuple(node for node in self.nodes if node.kind in CONNECTIONS)

    @property
    def neurons(self) -> tuple[Node, ...]:
        """Spiking neuron layers, in execution order."""
        return tuple(node for node in self.nodes if node.kind is Kind.NEURON)

    @property
    def classifier(self) -> Node:
        """The connection layer that produces the class outputs.

        Raises:
            ValueError: when no linear layer leads straight to the output.
        """
        node = self.nodes[self.output]
        while node.kind not in CONNECTIONS:
            if len(node.inputs) != 1:
                raise ValueError(f"no single connection layer feeds the output node '{node.name}'")
            node = self.nodes[node.inputs[0]]
        return node

    def module(self, node: Node) -> nn.Module:
        """The module of a node that has one."""
        if node.module is None:
            raise ValueError(f"node '{node.name}' ({node.kind}) has no module")
        return self.model.get_submodule(node.module)

    def call(self, inputs: Tensor) -> Any:
        """Runs the module's own forward, once.

        Args:
            inputs: ``(batch, ...)``, or ``(time, batch, ...)`` for a module that loops over
                frames.
        """
        turned = inputs.transpose(0, 1) if self.batch_first else inputs
        return self.model(turned.clone())

    def modules_of_steps(self, node: Node) -> list[nn.Module]:
        """The modules of a BatchNorm: one for every time step, or one for all."""
        return [self.model.get_submodule(path) for path in node.of_steps or (str(node.module),)]

    def neuron(self, node: Node) -> Neuron:
        """How a neuron layer is simulated."""
        if node.neuron is None:
            raise ValueError(f"node '{node.name}' ({node.kind}) is no neuron layer")
        return node.neuron

    def reads_membrane(self, node: Node) -> bool:
        """Whether a node is the output, and its membrane potential what is read out."""
        return node.index == self.output and self.readout == "membrane"

    def rebind(self, model: nn.Module) -> SpikingGraph:
        """The same graph over another module with the same layers (a pruned copy, say)."""
        return replace(self, model=model)

    def deciding(self, names: Collection[str]) -> SpikingGraph:
        """The same graph with only some of its groups; the others are kept whole."""
        groups = tuple(group for group in self.groups if group.name in names)
        return replace(self, groups=groups)

    @property
    def width(self) -> int:
        """Outputs that are read, before the decision."""
        return self.nodes[self.output].shape[0]

    def scores(self, outputs: Tensor) -> Tensor:
        """Scores ``(samples, classes)`` of the output node over time.

        Args:
            outputs: ``(time, samples, outputs)``, what ``readout`` names; floating.
        """
        return self.decision.scores(outputs, self.readout)


def owned_tensors(graph: SpikingGraph, node: Node) -> dict[str, Tensor]:
    """The network's parameters and buffers that an operation uses, by path."""
    assert node.operation is not None
    found = {}
    for path in node.operation.owned:
        module, _, name = path.rpartition(".")
        found[path] = getattr(graph.model.get_submodule(module), name)
    return found


@dataclass(frozen=True, slots=True)
class Synapses:
    """A bundle of synapses whose operations are counted.

    Attributes:
        name: of its count.
        reads: the node whose channels it reads.
        gives: the node whose channels it reaches from each of them, ``None`` where a channel
            reaches only itself.
    """

    name: str
    reads: Node
    gives: Node | None


def recurrence_name(node: Node) -> str:
    """The name of a neuron layer's recurrent synapses."""
    return f"{node.name}.recurrent"


def counted_synapses(graph: SpikingGraph) -> tuple[Synapses, ...]:
    """All that is counted in a network, in execution order."""
    found = []
    for node in graph.nodes:
        if node.kind in CONNECTIONS or (node.operation is not None and node.operation.columns):
            found.append(Synapses(node.name, graph.nodes[node.inputs[0]], node))
        elif node.neuron is not None and node.neuron.wiring is not None:
            reached = None if node.neuron.wiring == "one-to-one" else node
            found.append(Synapses(recurrence_name(node), node, reached))
    return tuple(found)


Kept = Mapping[int, Tensor]
"""Channel space -> kept channel indices (int64, ascending). A space that is absent keeps all."""


def kept_features(channels: tuple[Segment, ...], kept: Kept) -> Tensor | None:
    """Indices kept along a node's channel axis.

    Args:
        channels: the node's channel axis.
        kept: kept channels by space.

    Returns:
        int64 indices, ascending, or ``None`` when every channel is kept.
    """
    if not any(segment.space in kept for segment in channels):
        return None
    pieces, offset = [], 0
    device = next(iter(kept.values())).device
    for segment in channels:
        index = kept.get(segment.space)
        if index is None:
            index = torch.arange(segment.size, device=device)
        if segment.repeat > 1:
            within = torch.arange(segment.repeat, device=device)
            index = (index[:, None] * segment.repeat + within).flatten()
        pieces.append(index + offset)
        offset += segment.size * segment.repeat
    return torch.cat(pieces)
