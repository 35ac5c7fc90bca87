"""What the simulator knows about a graph before it runs a plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from spear_gym.simulation.synops import fanout_map, recurrent_fanout
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, SpikingGraph
from spear_gym.snn.neurons import own_tensors


@dataclass(frozen=True, slots=True)
class Block:
    """A connection whose output only a neuron layer reads, directly or through a BatchNorm.

    Its currents are never needed as a whole, so that a block can be run in pieces that fit in the
    cache.
    """

    connection: Node
    norm: Node | None
    neuron: Node


def blocks(graph: SpikingGraph) -> dict[int, Block]:
    """The graph's blocks by the index of their connection."""
    readers = _readers(graph)
    decisions = {group.members[0] for group in graph.groups}
    found: dict[int, Block] = {}
    for connection in graph.connections:
        norm = None
        node = _only_reader(graph, readers, connection)
        if node is not None and node.kind is Kind.NORM and not node.of_steps:
            norm, node = node, _only_reader(graph, readers, node)
        if node is None or node.kind is not Kind.NEURON:
            continue
        if graph.reads_membrane(node):
            continue
        if any(connection.index < decision <= node.index for decision in decisions):
            continue  # a walk may stop inside
        found[connection.index] = Block(connection, norm, node)
    return found


def last_uses(graph: SpikingGraph) -> dict[int, int]:
    """Node -> the last node that reads it."""
    return {index: readers[-1] for index, readers in _readers(graph).items()}


def binary_nodes(graph: SpikingGraph) -> frozenset[int]:
    """Nodes whose values are all 0 or 1: spikes, and what only moves or selects them."""
    binary: set[int] = set()
    for node in graph.nodes:
        if node.kind is Kind.NEURON:
            neuron = graph.neuron(node)
            if neuron.is_binary(own_tensors(neuron, graph.module(node))):
                binary.add(node.index)
        elif (node.kind in _SELECTING or _is_max_pool(node)) and binary.issuperset(node.inputs):
            binary.add(node.index)
    return frozenset(binary)


_SELECTING = frozenset({Kind.FLATTEN, Kind.DROPOUT, Kind.CONCAT})


def _is_max_pool(node: Node) -> bool:
    function = node.function
    return isinstance(function, partial) and function.func in (F.max_pool1d, F.max_pool2d)


def refitted(graph: SpikingGraph) -> Node:
    """The classifier that the scoring `refit` fits.

    Raises:
        ValueError: when it is not linear.
    """
    node = graph.classifier
    if node.kind is not Kind.LINEAR:
        raise ValueError(
            f"scoring 'refit' needs a linear classifier, but '{node.name}' is a convolution; use "
            "'recalibrated'"
        )
    return node


def _readers(graph: SpikingGraph) -> dict[int, list[int]]:
    """Node -> the nodes that read it, in order."""
    readers: dict[int, list[int]] = {}
    for node in graph.nodes:
        for index in node.inputs:
            readers.setdefault(index, []).append(node.index)
    return readers


def _only_reader(graph: SpikingGraph, readers: dict[int, list[int]], node: Node) -> Node | None:
    if node.index == graph.output or len(readers.get(node.index, ())) != 1:
        return None
    return graph.nodes[readers[node.index][0]]


def fanouts(graph: SpikingGraph) -> dict[int, Tensor]:
    """Synapses per output channel that leave each position of what a node's synapses read.

    Returns:
        Of every connection, and of every neuron layer with recurrent synapses, by node.
    """
    found = {
        node.index: fanout_map(graph.module(node), graph.nodes[node.inputs[0]].shape[1:])
        for node in graph.connections
    }
    for node in graph.neurons:
        wiring = graph.neuron(node).wiring
        if wiring is not None:
            found[node.index] = recurrent_fanout(wiring, graph.module(node), node.shape[1:])
    return found


def reads_of_connections(graph: SpikingGraph) -> frozenset[int]:
    """Nodes that a connection reads, whose non-zero entries SynOps need."""
    return frozenset(node.inputs[0] for node in graph.nodes if node.kind in CONNECTIONS)
