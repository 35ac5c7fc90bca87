"""A walk being continued: what each node of the graph does to a plan's values and counts."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from spear_gym.pruning.slicing import sliced_tensors
from spear_gym.simulation.layers import (
    Affine,
    affine_of,
    channel_moments,
    combine,
    connect,
    moments_of,
    normalise,
)
from spear_gym.simulation.neurons import NeuronLayer
from spear_gym.simulation.prepared import Prepared
from spear_gym.simulation.structure import Block
from spear_gym.simulation.synops import (
    Activity,
    activity,
    count_layer,
    count_product,
    count_recurrence,
)
from spear_gym.simulation.walk import NeuronCount, Walk
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, recurrence_name
from spear_gym.snn.neurons import Tensors
from spear_gym.snn.operations import Operation


class Run:
    """A walk being continued.

    Args:
        prepared: the network and the samples.
        walk: where it starts; left as it is.
    """

    def __init__(self, prepared: Prepared, walk: Walk) -> None:
        self.prepared = prepared
        self.graph = prepared.graph
        self.kept = walk.kept
        self.values, self.activities = dict(walk.values), dict(walk.activities)
        self.layers, self.neurons = dict(walk.layers), dict(walk.neurons)
        self.updates, self.widths = dict(walk.updates), dict(walk.widths)
        self.parameters, self.readout = walk.parameters, walk.readout
        self._done: set[int] = set()

    def walk(self, position: int) -> Walk:
        """The walk so far."""
        return Walk(
            position=position,
            kept=self.kept,
            values=self.values,
            activities=self.activities,
            layers=self.layers,
            neurons=self.neurons,
            updates=self.updates,
            widths=self.widths,
            parameters=self.parameters,
            readout=self.readout,
        )

    def visit(self, node: Node) -> None:
        """Computes a node, unless its block did."""
        if node.index in self._done:
            return
        block = self.prepared.blocks.get(node.index)
        if block is not None:
            self._run_block(block)
            return
        moved = node.index in self.prepared.binary and node.kind is not Kind.NEURON
        sources = [self.values[i] for i in node.inputs]
        if not moved:
            sources = [self.prepared.floats(value) for value in sources]
        active = None
        if node.kind is Kind.INPUT:
            value = self.prepared.inputs
        elif node.kind in CONNECTIONS:
            value = self._connect(node, self.connection(node), sources[0])
        elif node.kind is Kind.NORM:
            if node.of_steps:
                sources[0] = sources[0].expand(self.prepared.num_steps, *sources[0].shape[1:])
            calibrating = sources[0][:, : self.prepared.calibrating]
            moments = moments_of(node, calibrating) if self.prepared.calibrating else None
            tensors = self.norm(node, moments)
            value = normalise(self.graph.module(node), tensors, sources[0])
        elif node.kind is Kind.NEURON:
            value, active = self._neurons(node, sources[0])
        elif node.operation is not None:
            value = self._operate(node, node.operation, sources)
        else:
            value = combine(node, sources)
        self._store(node, value, active)
        self._forget(node.inputs, node.index)

    # ---------------------------------------------------------------- blocks

    def _run_block(self, block: Block) -> None:
        source = self.values[block.connection.inputs[0]]
        tensors = self.connection(block.connection)
        layer = self.layer(block.neuron, self.tensors(block.neuron))

        def current(samples: slice) -> Tensor:
            return self._connect(block.connection, tensors, source[:, samples])

        def affine(norm: Node, current: Tensor | None) -> Affine:
            found = self.norm(norm, None if current is None else channel_moments(current))
            return affine_of(self.graph.module(norm), found)

        sample_bytes = self.sample_bytes(block, source, tensors)
        run_in_pieces(block, self.prepared, layer, sample_bytes, current, affine)
        self.end_block(block, layer.way, layer.spikes(), layer.counts())

    def sample_bytes(self, block: Block, source: Tensor, tensors: Tensors) -> int:
        """Memory that the inputs or the currents of one sample take, whichever is more."""
        weight = tensors["weight"]
        currents = len(weight) * prod(block.connection.shape[1:])
        steps = len(source)
        if source.device.type != "cpu":
            steps = self.prepared.num_steps  # PyTorch's own operations hold all of them
        return max(len(source) * source[0, 0].numel(), steps * currents) * weight.element_size()

    def end_block(self, block: Block, way: str, spikes: Tensor, counts: Tensor | None) -> None:
        """Takes what a block's neurons fired; counts as in :meth:`NeuronLayer.counts`."""
        self._store(block.neuron, *self._spikes(block.neuron, way, spikes, counts))
        self._done.add(block.neuron.index)
        if block.norm is not None:
            self._done.add(block.norm.index)
        self._forget(block.connection.inputs, block.connection.index)
        self._forget((), block.neuron.index)

    # ---------------------------------------------------------------- nodes

    def connection(self, node: Node) -> Tensors:
        """Counts a connection; its (sliced, perhaps refitted) tensors."""
        prepared, source = self.prepared, node.inputs[0]
        tensors = self.tensors(node)
        outputs, inputs = tensors["weight"].shape[:2]
        active = self.activities[source]
        self.layers[node.name] = count_layer(
            active,
            prepared.fanouts[node.index],
            outputs // (active.shape[2] // inputs),
            prepared.num_steps,
            analog=node.analog,
        )
        self.widths[node.name] = outputs
        if node.index == prepared.classifier:
            tensors = prepared.refit(prepared.floats(self.values[source]), tensors)
            self.updates[node.name] = tensors
        return tensors

    def _connect(self, node: Node, tensors: Tensors, source: Tensor) -> Tensor:
        operand = self.prepared.operand
        factors = {name: operand(tensor) for name, tensor in tensors.items()}
        current = connect(node, self.graph.module(node), factors, operand(source))
        return current.to(self.prepared.inputs.dtype)

    def norm(self, node: Node, moments: tuple[Tensor, Tensor] | None) -> Tensors:
        """A BatchNorm's tensors; moments are those of its currents if it is recalibrated.

        They are taken over all calibration samples and steps, mean and *biased* variance
        (docs/definitions.md, "Scoring").
        """
        tensors = self.tensors(node)
        if moments is None:
            return tensors
        mean, variance = moments
        recalibrated = {**tensors, "running_mean": mean, "running_var": variance}
        self.updates[node.name] = recalibrated
        return recalibrated

    def layer(self, node: Node, tensors: Tensors, *, membrane: bool = False) -> NeuronLayer:
        """A neuron layer with (sliced) tensors, at rest."""
        prepared = self.prepared
        return NeuronLayer(
            self.graph.neuron(node),
            self.graph.module(node),
            tensors,
            prepared.num_steps,
            prepared.inputs.shape[1],
            prepared.calibrating,
            membrane=membrane,
        )

    def _neurons(self, node: Node, current: Tensor) -> tuple[Tensor, Activity | None]:
        """A neuron layer that is not part of a block."""
        layer = self.layer(node, self.tensors(node), membrane=self.graph.reads_membrane(node))
        layer.run(current.clone(), None, 0)
        if layer.membranes is not None:
            self.readout = self._scores(layer.membranes)
        return self._spikes(node, layer.way, layer.spikes(), layer.counts())

    def _spikes(
        self, node: Node, way: str, value: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Activity | None]:
        """A layer's spikes, counted."""
        self.prepared.statistics[way] += 1
        scored = self.prepared.scored(value)
        active = None
        if counts is not None:
            active = Activity(counts.sum(0), tuple(scored.shape))
        elif node.index in self.prepared.counted:
            active = activity(scored)
        fired = int((scored != 0).sum()) if active is None else int(active.per_position.sum())
        self.neurons[node.name] = NeuronCount(fired, scored.numel())
        wiring = self.graph.neuron(node).wiring
        if wiring is not None:
            fanout = self.prepared.fanouts[node.index]
            self.layers[recurrence_name(node)] = count_recurrence(scored, wiring, fanout)
            self.widths[recurrence_name(node)] = scored.shape[2]
        return value, active

    def _operate(self, node: Node, operation: Operation, sources: list[Tensor]) -> Tensor:
        """A function that is recorded as it is; a product of two activations is counted."""
        tensors = self.tensors(node) if operation.owned else {}
        if operation.columns:
            scored = self.prepared.scored(sources[0])
            self.layers[node.name] = count_product(
                scored, operation.columns, self.prepared.num_steps, analog=node.analog
            )
            self.widths[node.name] = node.shape[0]
        return combine(node, sources, tensors)

    # ---------------------------------------------------------------- values

    def _store(self, node: Node, value: Tensor, active: Activity | None) -> None:
        """Keeps a value, counts it where SynOps need it, reads it out if it is the output."""
        prepared = self.prepared
        prepared.watched(node, value)
        if node.index == self.graph.output and self.readout is None:
            self.readout = self._scores(value)
        binary = node.index in prepared.binary
        value = value.to(torch.uint8) if binary else value
        self.values[node.index] = value
        if node.index in prepared.counted:
            counted = activity(prepared.scored(value)) if active is None else active
            self.activities[node.index] = counted

    def _scores(self, value: Tensor) -> Tensor:
        """One score a class of the scored samples, given the output over time."""
        scored = self.prepared.floats(self.prepared.scored(value))
        return self.graph.scores(scored.expand(self.prepared.num_steps, *scored.shape[1:]))

    def _forget(self, inputs: tuple[int, ...], position: int) -> None:
        """Drops values that no node behind ``position`` reads."""
        for index in {*inputs, position}:
            if self.prepared.last_use.get(index, -1) <= position:
                self.values.pop(index, None)
                self.activities.pop(index, None)

    def tensors(self, node: Node) -> Tensors:
        """A node's sliced tensors; its parameters are counted."""
        tensors = sliced_tensors(self.graph, node, self.kept)
        self.parameters += sum(
            t.numel() for name, t in tensors.items() if self._is_parameter(node, name)
        )
        return tensors

    def _is_parameter(self, node: Node, name: str) -> bool:
        whole = self.graph.model if node.operation is not None else self.graph.module(node)
        module, _, own = name.rpartition(".")
        return own in whole.get_submodule(module)._parameters


def run_in_pieces(
    block: Block,
    prepared: Prepared,
    layer: NeuronLayer,
    sample_bytes: int,
    current: Callable[[slice], Tensor],
    affine: Callable[[Node, Tensor | None], Affine],
) -> None:
    """A connection, its BatchNorm and its neurons, in pieces of the batch.

    Args:
        block: the three.
        prepared: the network and the samples.
        layer: its neurons, which are run.
        sample_bytes: memory that a sample takes.
        current: the connection's currents for some samples.
        affine: the BatchNorm, given its currents on the calibration samples if there are any.
    """
    found: Affine | None = None
    start = 0
    if block.norm is not None:
        calibrating = prepared.calibrating
        given = current(slice(calibrating)) if calibrating else None
        found = affine(block.norm, given)
        if given is not None:
            layer.run(given, found, 0)
            start = calibrating
    for piece in prepared.pieces(start, sample_bytes):
        layer.run(current(piece), found, piece.start)
