"""A walk being continued: what each node of the graph does to a plan's values and counts.

Public names are for :mod:`spear_gym.simulation.simulate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.pruning.slicing import sliced_tensors
from spear_gym.simulation.layers import (
    Affine,
    Tensors,
    affine_of,
    channel_moments,
    combine,
    connect,
    fire,
    normalise,
)
from spear_gym.simulation.neurons import LeakyLayer
from spear_gym.simulation.side_by_side import (
    affine_side_by_side,
    beside,
    connect_side_by_side,
    neurons_side_by_side,
)
from spear_gym.simulation.structure import Block
from spear_gym.simulation.synops import Activity, activity, count_layer
from spear_gym.simulation.walk import NeuronCount, Walk
from spear_gym.snn.graph import CONNECTIONS, Kind, Node

if TYPE_CHECKING:
    from spear_gym.simulation.simulate import Simulator

PIECE_BYTES = 2 * 2**20
"""Inputs or currents of a block that are computed at a time; they should stay in the cache."""

DEVICE_PIECE_BYTES = 2**30
"""The same on another device than the CPU, where many launches cost more than a cache saves."""


class Run:
    """A walk being continued."""

    def __init__(self, simulator: Simulator, walk: Walk) -> None:
        self.simulator = simulator
        self.graph = simulator.graph
        self.kept = walk.kept
        self.values, self.activities = dict(walk.values), dict(walk.activities)
        self.layers, self.neurons = dict(walk.layers), dict(walk.neurons)
        self.updates, self.widths = dict(walk.updates), dict(walk.widths)
        self.parameters, self.readout = walk.parameters, walk.readout
        self._done: set[int] = set()

    def walk(self, position: int) -> Walk:
        """The walk so far."""
        return Walk(
            position,
            self.kept,
            self.values,
            self.activities,
            self.layers,
            self.neurons,
            self.updates,
            self.widths,
            self.parameters,
            self.readout,
        )

    def visit(self, node: Node) -> None:
        """Computes a node, unless its block did."""
        if node.index in self._done:
            return
        block = self.simulator.blocks.get(node.index)
        if block is not None:
            self._run_block(block)
            return
        moved = node.index in self.simulator.binary and node.kind is not Kind.NEURON
        sources = [self.values[i] for i in node.inputs]
        if not moved:
            sources = [self.simulator.floats(value) for value in sources]
        active = None
        if node.kind is Kind.INPUT:
            value = self.simulator.inputs
        elif node.kind in CONNECTIONS:
            value = self._connect(node, self.connection(node), sources[0])
        elif node.kind is Kind.NORM:
            calibrating = sources[0][:, : self.simulator.calibrating]
            moments = channel_moments(calibrating) if self.simulator.calibrating else None
            tensors = self.norm(node, moments)
            value = normalise(self.graph.module(node), tensors, sources[0])
        elif node.kind is not Kind.NEURON:
            value = combine(node, sources)
        elif node.index == self.graph.output and self.graph.readout == "membrane":
            value = self._fire_and_read_membrane(node, sources[0])
        else:
            layer = self._leaky(node, sources[0].shape[1])
            layer.run(sources[0].clone(), None, 0)
            value, active = self._spikes(node, layer.way, layer.spikes(), layer.counts())
        self._store(node, value, active)
        self._forget(node.inputs, node.index)

    # ---------------------------------------------------------------- blocks

    def _run_block(self, block: Block) -> None:
        """A connection, its BatchNorm and its neurons, in pieces of the batch."""
        source = self.values[block.connection.inputs[0]]
        calibrating = self.simulator.calibrating
        tensors = self.connection(block.connection)
        layer = self._leaky(block.neuron, source.shape[1])
        affine: Affine | None = None
        start = 0
        if block.norm is not None:
            current = None
            if calibrating:
                current = self._connect(block.connection, tensors, source[:, :calibrating])
            norm = self.norm(block.norm, None if current is None else channel_moments(current))
            affine = affine_of(self.graph.module(block.norm), norm)
            if current is not None:
                layer.run(current, affine, 0)
                start = calibrating
        for piece in _pieces(start, source, self.sample_bytes(block, source, tensors)):
            current = self._connect(block.connection, tensors, source[:, piece])
            layer.run(current, affine, piece.start)
        self.end_block(block, layer.way, layer.spikes(), layer.counts())

    def sample_bytes(self, block: Block, source: Tensor, tensors: Tensors) -> int:
        """Memory that the inputs or the currents of one sample take, whichever is more."""
        weight = tensors["weight"]
        currents = len(weight) * prod(block.connection.shape[1:])
        steps = len(source)
        if source.device.type != "cpu":
            steps = self.simulator.num_steps  # PyTorch's own operations hold all of them
        return max(len(source) * source[0, 0].numel(), steps * currents) * weight.element_size()

    def end_block(self, block: Block, way: str, spikes: Tensor, counts: Tensor | None) -> None:
        """Takes what a block's neurons fired; counts as in :meth:`LeakyLayer.counts`."""
        self._store(block.neuron, *self._spikes(block.neuron, way, spikes, counts))
        self._done.add(block.neuron.index)
        if block.norm is not None:
            self._done.add(block.norm.index)
        self._forget(block.connection.inputs, block.connection.index)
        self._forget((), block.neuron.index)

    # ---------------------------------------------------------------- nodes

    def connection(self, node: Node) -> Tensors:
        """Counts a connection; its (sliced, perhaps refitted) tensors."""
        simulator, source = self.simulator, node.inputs[0]
        tensors = self.tensors(node)
        outputs, inputs = tensors["weight"].shape[:2]
        active = self.activities[source]
        self.layers[node.name] = count_layer(
            active,
            simulator.fanouts[node.index],
            outputs // (active.shape[2] // inputs),
            simulator.num_steps,
            analog=node.analog,
        )
        self.widths[node.name] = outputs
        if node.index == simulator.classifier:
            tensors = simulator.refit(simulator.floats(self.values[source]), tensors)
            self.updates[node.name] = tensors
        return tensors

    def _connect(self, node: Node, tensors: Tensors, source: Tensor) -> Tensor:
        operand = self.simulator.operand
        factors = {name: operand(tensor) for name, tensor in tensors.items()}
        current = connect(node, self.graph.module(node), factors, operand(source))
        return current.to(self.simulator.inputs.dtype)

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

    def _leaky(self, node: Node, samples: int) -> LeakyLayer:
        neuron, simulator = self.graph.module(node), self.simulator
        assert isinstance(neuron, snn.Leaky)
        tensors = self.tensors(node)
        return LeakyLayer(neuron, tensors, simulator.num_steps, samples, simulator.calibrating)

    def _spikes(
        self, node: Node, way: str, value: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Activity | None]:
        """A layer's spikes, counted."""
        self.simulator.statistics[way] += 1
        scored = self.simulator.scored(value)
        active = None
        if counts is not None:
            active = Activity(counts.sum(0), tuple(scored.shape))
        elif node.index in self.simulator.read_by_connections:
            active = activity(scored)
        fired = int((scored != 0).sum()) if active is None else int(active.per_position.sum())
        self.neurons[node.name] = NeuronCount(fired, scored.numel())
        return value, active

    def _fire_and_read_membrane(self, node: Node, current: Tensor) -> Tensor:
        neuron, simulator = self.graph.module(node), self.simulator
        assert isinstance(neuron, snn.Leaky)
        steps = simulator.num_steps
        value, membrane = fire(neuron, self.tensors(node), current, steps, membrane=True)
        assert membrane is not None
        self.readout = simulator.scored(membrane).mean(0)
        scored = simulator.scored(value)
        self.neurons[node.name] = NeuronCount(int((scored != 0).sum()), scored.numel())
        return value

    # ---------------------------------------------------------------- values

    def _store(self, node: Node, value: Tensor, active: Activity | None) -> None:
        """Keeps a value, counts it where SynOps need it, reads it out if it is the output."""
        simulator = self.simulator
        simulator.seen(node, value)
        if node.index == self.graph.output and self.readout is None:
            scored = simulator.floats(simulator.scored(value))
            self.readout = scored.sum(0) if self.graph.readout == "spikes" else scored.mean(0)
        binary = node.index in simulator.binary
        value = value.to(torch.uint8) if binary else value
        self.values[node.index] = value
        if node.index in simulator.read_by_connections:
            counted = activity(simulator.scored(value)) if active is None else active
            self.activities[node.index] = counted

    def _forget(self, inputs: tuple[int, ...], position: int) -> None:
        """Drops values that no node behind ``position`` reads."""
        for index in {*inputs, position}:
            if self.simulator.last_use.get(index, -1) <= position:
                self.values.pop(index, None)
                self.activities.pop(index, None)

    def tensors(self, node: Node) -> Tensors:
        """A node's sliced tensors; its parameters are counted."""
        tensors = sliced_tensors(self.graph, node, self.kept)
        trainable = self.graph.module(node)._parameters
        self.parameters += sum(t.numel() for name, t in tensors.items() if name in trainable)
        return tensors


class SideBySide:
    """A block of several runs as one operation: what ``_run_block`` does for one of them."""

    def __init__(self, block: Block, runs: Sequence[Run]) -> None:
        self.block, self.runs = block, runs
        self.simulator, self.graph = runs[0].simulator, runs[0].graph
        self.sources = [run.values[block.connection.inputs[0]] for run in runs]
        self.tensors = [run.connection(block.connection) for run in runs]
        self.channels = [len(tensors["weight"]) for tensors in self.tensors]
        self.stacked = {
            name: self.simulator.operand(beside([each[name] for each in self.tensors], 0))
            for name in self.tensors[0]
        }
        alike = all(source is self.sources[0] for source in self.sources)
        grouped = self.sources[0].shape[2] != self.stacked["weight"].shape[2]
        self.shared = alike and not grouped

    def run(self) -> None:
        """Computes the block, and hands each run its part."""
        block, calibrating = self.block, self.simulator.calibrating
        layer = self._leaky()
        affine: Affine | None = None
        start = 0
        if block.norm is not None:
            current = self._connect(slice(calibrating)) if calibrating else None
            affine = self._affine(block.norm, current)
            if current is not None:
                layer.run(current, affine, 0)
                start = calibrating
        largest = max(
            self.runs[0].sample_bytes(block, source, tensors)
            for source, tensors in zip(self.sources, self.tensors, strict=True)
        )
        for piece in _pieces(start, self.sources[0], largest * len(self.runs)):
            layer.run(self._connect(piece), affine, piece.start)
        spikes, counts = layer.spikes(), layer.counts()
        if counts is None:
            counts = torch.count_nonzero(self.simulator.scored(spikes), (0, 1)).cpu()
        # A copy each, so that a walk in memory does not hold on to the others' spikes.
        parts = zip(self.runs, self._parts(spikes, 2), self._parts(counts, 0), strict=True)
        for run, fired, counted in parts:
            run.end_block(block, f"{layer.way}, side by side", fired.clone(), counted)

    def _connect(self, samples: slice) -> Tensor:
        node = self.block.connection
        read = [source[:, samples] for source in self.sources]
        value = self.simulator.operand(read[0] if self.shared else beside(read, 2))
        current = connect_side_by_side(node, self.graph.module(node), self.stacked, value)
        return current.to(self.simulator.inputs.dtype)

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

    def _leaky(self) -> LeakyLayer:
        node, simulator = self.block.neuron, self.simulator
        neuron = self.graph.module(node)
        assert isinstance(neuron, snn.Leaky)
        sliced = [run.tensors(node) for run in self.runs]
        tensors = neurons_side_by_side(neuron, sliced, len(node.shape))
        samples = self.sources[0].shape[1]
        return LeakyLayer(neuron, tensors, simulator.num_steps, samples, simulator.calibrating)

    def _parts(self, value: Tensor, axis: int) -> list[Tensor]:
        """Each run's channels."""
        width = max(self.channels)
        return [value.narrow(axis, n * width, size) for n, size in enumerate(self.channels)]


def _pieces(start: int, source: Tensor, sample_bytes: int) -> Iterator[slice]:
    """Slices of the samples of ``(time, samples, ...)`` from the one at ``start``."""
    most = PIECE_BYTES if source.device.type == "cpu" else DEVICE_PIECE_BYTES
    size, stop = max(1, most // max(1, sample_bytes)), source.shape[1]
    for first in range(start, stop, size):
        yield slice(first, min(stop, first + size))
