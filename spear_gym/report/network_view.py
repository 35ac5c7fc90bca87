"""A traced network as it is shown: operations, groups of channels, and what is fixed and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spear_gym.snn.graph import CONNECTIONS, Node, PrunableGroup, SpikingGraph
from spear_gym.workload import Workload

FORMAT = "spear-gym inspection 1"


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation of a time step.

    Attributes:
        name: module path or function.
        kind: what it computes; of a neuron also how it is simulated.
        reads: names of the operations that it reads.
        shape: of its output, one sample, unpruned.
        group: that its channels belong to, ``None`` where they are fixed or of several groups.
        synops: per sample on search, ``None`` for what has none by its nature.
        macs: the same of multiply-accumulates.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    shape: tuple[int, ...]
    group: str | None
    synops: float | None
    macs: float | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """A prunable group.

    Attributes:
        name: of its first member.
        channels: unpruned.
        blocks: of each of so many runs of channels as many are kept.
        members: connections that make its channels.
        ties: why they are one group; empty for a single member.
        why_blocks: which grouped convolutions ask for blocks.
    """

    name: str
    channels: int
    blocks: int
    members: tuple[str, ...]
    ties: tuple[str, ...]
    why_blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FixedView:
    """Channels that are never pruned.

    Attributes:
        name: of the first operation that has them.
        channels: how many.
        reason: why.
    """

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class NetworkView:
    """A workload's network.

    Attributes:
        workload: its name.
        num_steps: time steps T.
        idiom: ``"step"`` or ``"loop"``.
        readout: what is read of the output.
        accuracy: on search, unpruned.
        synops: per sample on search, unpruned.
        macs: the same of multiply-accumulates.
        parameters: weights and biases.
        operations: in execution order.
        groups: in the order of decision.
        fixed: channels that are never pruned.
    """

    workload: str
    num_steps: int
    idiom: str
    readout: str
    accuracy: float
    synops: float
    macs: float
    parameters: int
    operations: tuple[OperationView, ...]
    groups: tuple[GroupView, ...]
    fixed: tuple[FixedView, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **asdict(self)}


def network_view(workload: Workload) -> NetworkView:
    """What there is to see of a workload's network, measured on search."""
    graph, figures = workload.graph, workload.reference("search")
    counted = {layer.name: layer for layer in figures.layers}
    named = {group.space: group.name for group in graph.groups}
    operations = []
    for node in graph.nodes:
        layer = counted.get(node.name)  # connections, and products of two activations
        spaces = {segment.space for segment in node.channels}
        group = named.get(next(iter(spaces))) if len(spaces) == 1 else None
        operations.append(
            OperationView(
                node.name,
                _kind(graph, node),
                tuple(graph.nodes[index].name for index in node.inputs),
                node.shape,
                group,
                layer.synops if layer else None,
                layer.macs if layer else None,
            )
        )
    return NetworkView(
        workload=workload.name,
        num_steps=workload.num_steps,
        idiom=graph.idiom,
        readout=graph.readout,
        accuracy=figures.accuracy,
        synops=figures.synops,
        macs=figures.macs,
        parameters=figures.parameters,
        operations=tuple(operations),
        groups=tuple(_group(graph, group) for group in graph.groups),
        fixed=tuple(_fixed(graph)),
    )


def _kind(graph: SpikingGraph, node: Node) -> str:
    groups = getattr(graph.module(node), "groups", 1) if node.kind in CONNECTIONS else 1
    if groups > 1:
        return f"{node.kind}, {groups} groups"
    return node.kind.value if node.neuron is None else f"{node.kind}: {node.neuron.describe()}"


def _group(graph: SpikingGraph, group: PrunableGroup) -> GroupView:
    members = [graph.nodes[index] for index in group.members]
    return GroupView(
        group.name,
        group.channels,
        group.blocks,
        tuple(node.name for node in members),
        tuple(_tie(graph, node) for node in members[1:]),
        tuple(_blocks(graph, group)) if group.blocks > 1 else (),
    )


def _conv_groups(graph: SpikingGraph, node: Node) -> tuple[int, int]:
    """Groups of a connection, and channels that it reads."""
    return getattr(graph.module(node), "groups", 1), graph.nodes[node.inputs[0]].shape[0]


def _tie(graph: SpikingGraph, member: Node) -> str:
    """Why a member that is not the first belongs to its group."""
    groups, width = _conv_groups(graph, member)
    if groups == width > 1:
        each = member.shape[0] // width
        times = f", {each} outputs for each" if each > 1 else ""
        return f"'{member.name}' is depthwise on these channels{times}"
    return f"what '{member.name}' makes is added to them"


def _blocks(graph: SpikingGraph, group: PrunableGroup) -> list[str]:
    found = []
    for node in graph.connections:
        groups, width = (
            getattr(graph.module(node), "groups", 1),
            graph.nodes[node.inputs[0]].shape[0],
        )
        if groups in (1, width):
            continue
        for doing, axis in (("reads", graph.nodes[node.inputs[0]]), ("makes", node)):
            if any(segment.space == group.space for segment in axis.channels):
                found.append(f"'{node.name}' {doing} them in {groups} groups")
    return found


def _fixed(graph: SpikingGraph) -> list[FixedView]:
    found: dict[int, FixedView] = {}
    for node in graph.nodes:
        for segment in node.channels:
            reason = graph.fixed.get(segment.space)
            if reason is not None and segment.space not in found:
                found[segment.space] = FixedView(node.name, segment.size, reason)
    return list(found.values())
