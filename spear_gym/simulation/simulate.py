"""A plan run on data, layer by layer.

Time is folded into the batch wherever there is no state, weights are sliced rather than masked,
and a *walk* can stop at every decision: the state of a walk is an immutable value, so any prefix
of a plan can be kept and continued. A whole pass is a walk that never stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np
import snntorch as snn
import torch
from torch import Tensor

from spear_gym.pruning.plan import Plan, kept_by_space
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
from spear_gym.simulation.refit import RefitTargets, ridge
from spear_gym.simulation.structure import (
    Block,
    binary_nodes,
    blocks,
    last_uses,
    reads_of_connections,
    refitted,
)
from spear_gym.simulation.synops import (
    Activity,
    activity,
    count_layer,
    fanout_map,
)
from spear_gym.simulation.walk import NeuronCount, Walk
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, SpikingGraph

Scoring = Literal["plain", "recalibrated", "refit"]
SCORINGS: tuple[Scoring, ...] = ("plain", "recalibrated", "refit")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

PIECE_BYTES = 2 * 2**20
"""Inputs or currents of a block that are computed at a time; they should stay in the cache."""


class Simulator:
    """Runs plans of one network on one set of inputs.

    Args:
        graph: the unpruned, traced network.
        inputs: scored samples, ``(samples, channel, ...)``, or ``(samples, time, channel, ...)``
            when the graph's input varies.
        num_steps: time steps T.
        scoring: how BatchNorm and classifier are treated (DESIGN section 3, "Scoring").
        calibration: calibration samples, needed unless ``scoring`` is ``"plain"``.
        targets: the refit's regression targets, needed by ``"refit"``.
        precision: ``"bfloat16"`` computes convolutions and matrix products in bfloat16, in which
            spikes are exact and weights are not; all else stays as it is.

    Attributes:
        statistics: how often a layer was computed in which way; names every fallback.
    """

    statistics: Counter[str]

    def __init__(
        self,
        graph: SpikingGraph,
        inputs: Tensor,
        num_steps: int,
        *,
        scoring: Scoring = "plain",
        calibration: Tensor | None = None,
        targets: RefitTargets | None = None,
        precision: Precision = "float32",
    ) -> None:
        if scoring != "plain" and (calibration is None or len(calibration) == 0):
            raise ValueError(f"scoring '{scoring}' needs a calibration set")
        if scoring == "refit" and targets is None:
            raise ValueError("scoring 'refit' needs regression targets")
        for frames in (inputs, calibration):
            if graph.varying and frames is not None and frames.shape[1] != num_steps:
                raise ValueError(
                    f"the samples have {frames.shape[1]} frames, but the network is run for "
                    f"{num_steps} time steps; they must be the same"
                )
        self.graph = graph
        self.num_steps = num_steps
        self.precision: Precision = precision
        self.scoring: Scoring = scoring
        self.targets = targets
        self.samples = len(inputs)
        self.statistics = Counter()
        self._calibrating = 0 if scoring == "plain" or calibration is None else len(calibration)
        both = inputs if self._calibrating == 0 else torch.cat([calibration, inputs])  # type: ignore[list-item]
        self._input = (both.transpose(0, 1) if graph.varying else both[None]).contiguous()
        self._fanouts = {
            node.index: fanout_map(graph.module(node), graph.nodes[node.inputs[0]].shape[1:])
            for node in graph.connections
        }
        self._last_use = last_uses(graph)
        self._decisions = {group.members[0]: group.space for group in graph.groups}
        self._blocks = blocks(graph)
        self._binary = binary_nodes(graph)
        self._read_by_connections = reads_of_connections(graph)
        self._classifier = refitted(graph).index if scoring == "refit" else -1

    def run(self, plan: Plan | None = None) -> Walk:
        """A whole pass over a plan (``None``: unpruned)."""
        kept = {} if plan is None else kept_by_space(plan, self.graph.groups)
        walk = Walk(kept=kept)
        return self._run_to(walk, len(self.graph.nodes))

    def scored(self, value: Tensor) -> Tensor:
        """The part of an activation ``(time, batch, ...)`` that belongs to scored samples."""
        return value[:, self._calibrating :]

    def classifier_currents(self) -> Tensor:
        """Mean output current of the unpruned classifier, ``(samples, classes)``."""
        graph = self.graph
        output = replace(graph, output=graph.classifier.index, readout="current")
        inputs = self._input[0] if not graph.varying else self._input.transpose(0, 1)
        readout = Simulator(output, inputs, self.num_steps).run().readout
        assert readout is not None
        return readout

    def start(self) -> Walk:
        """The walk up to the first decision."""
        return self._run_to(Walk(), self._next_decision(0))

    def advance(self, walk: Walk, kept: Tensor) -> Walk:
        """Decides the group that ``walk`` stands before and runs to the next decision, or the end.

        Args:
            walk: a walk that has not ended.
            kept: kept channel indices of that group, int64, ascending.
        """
        space = self._decisions[walk.position]
        group = next(g for g in self.graph.groups if g.space == space)
        decided = dict(walk.kept)
        if len(kept) < group.channels:
            decided[space] = kept
        return self._run_to(replace(walk, kept=decided), self._next_decision(walk.position + 1))

    def _next_decision(self, position: int) -> int:
        return min((i for i in self._decisions if i >= position), default=len(self.graph.nodes))

    @torch.no_grad()
    def _run_to(self, walk: Walk, end: int) -> Walk:
        run = _Run(self, walk)
        for node in self.graph.nodes[walk.position : end]:
            run.visit(node)
        return run.walk(end)

    def _refit(self, value: Tensor, tensors: Tensors) -> Tensors:
        assert self.targets is not None
        features = value[:, : self._calibrating].mean(0)
        weight, bias = ridge(features, self.targets, intercept="bias" in tensors)
        return {"weight": weight, "bias": bias} if "bias" in tensors else {"weight": weight}

    def _seen(self, node: Node, value: Tensor) -> None:
        """Called with every value that is computed as a whole; a subclass may watch."""


class _Run:
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
        block = self.simulator._blocks.get(node.index)
        if block is not None:
            self._run_block(block)
            return
        moved = node.index in self.simulator._binary and node.kind is not Kind.NEURON
        sources = [self.values[i] for i in node.inputs]
        if not moved:
            sources = [self._floats(value) for value in sources]
        active = None
        if node.kind is Kind.INPUT:
            value = self.simulator._input
        elif node.kind in CONNECTIONS:
            value = self._connect(node, self._connection(node), sources[0])
        elif node.kind is Kind.NORM:
            tensors = self._norm(node, sources[0][:, : self.simulator._calibrating])
            value = normalise(self.graph.module(node), tensors, sources[0])
        elif node.kind is not Kind.NEURON:
            value = combine(node, sources)
        elif node.index == self.graph.output and self.graph.readout == "membrane":
            value = self._fire_and_read_membrane(node, sources[0])
        else:
            layer = self._leaky(node, sources[0].shape[1])
            layer.run(sources[0].clone(), None, 0)
            value, active = self._spikes(node, layer)
        self._store(node, value, active)
        self._forget(node.inputs, node.index)

    # ---------------------------------------------------------------- blocks

    def _run_block(self, block: Block) -> None:
        """A connection, its BatchNorm and its neurons, in pieces of the batch."""
        source = self.values[block.connection.inputs[0]]
        samples, calibrating = source.shape[1], self.simulator._calibrating
        tensors = self._connection(block.connection)
        layer = self._leaky(block.neuron, samples)
        affine: Affine | None = None
        start = 0
        if block.norm is not None:
            current = None
            if calibrating:
                current = self._connect(block.connection, tensors, source[:, :calibrating])
            norm = self._norm(block.norm, current)
            affine = affine_of(self.graph.module(block.norm), norm)
            if current is not None:
                layer.run(current, affine, 0)
                start = calibrating
        for piece in _pieces(start, samples, self._sample_bytes(block, source, tensors)):
            current = self._connect(block.connection, tensors, source[:, piece])
            layer.run(current, affine, piece.start)
        self._store(block.neuron, *self._spikes(block.neuron, layer))
        self._done.add(block.neuron.index)
        if block.norm is not None:
            self._done.add(block.norm.index)
        self._forget(block.connection.inputs, block.connection.index)
        self._forget((), block.neuron.index)

    def _sample_bytes(self, block: Block, source: Tensor, tensors: Tensors) -> int:
        """Memory that the inputs or the currents of one sample take, whichever is more."""
        weight = tensors["weight"]
        currents = len(weight) * prod(block.connection.shape[1:])
        return len(source) * max(source[0, 0].numel(), currents) * weight.element_size()

    # ---------------------------------------------------------------- nodes

    def _connection(self, node: Node) -> Tensors:
        """Counts a connection; its (sliced, perhaps refitted) tensors."""
        simulator, source = self.simulator, node.inputs[0]
        tensors = self._tensors(node)
        outputs, inputs = tensors["weight"].shape[:2]
        active = self.activities[source]
        self.layers[node.name] = count_layer(
            active,
            simulator._fanouts[node.index],
            outputs // (active.shape[2] // inputs),
            simulator.num_steps,
            analog=node.analog,
        )
        self.widths[node.name] = outputs
        if node.index == simulator._classifier:
            tensors = simulator._refit(self._floats(self.values[source]), tensors)
            self.updates[node.name] = tensors
        return tensors

    def _connect(self, node: Node, tensors: Tensors, source: Tensor) -> Tensor:
        module = self.graph.module(node)
        if self.simulator.precision == "float32":
            return connect(node, module, tensors, self._floats(source))
        halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        return connect(node, module, halves, source.bfloat16()).to(self.simulator._input.dtype)

    def _norm(self, node: Node, current: Tensor | None) -> Tensors:
        """A BatchNorm's tensors, recalibrated on currents of all calibration samples and steps.

        Mean and *biased* variance (DESIGN section 3, "Scoring").
        """
        tensors = self._tensors(node)
        if current is None or not self.simulator._calibrating:
            return tensors
        mean, variance = channel_moments(current)
        recalibrated = {**tensors, "running_mean": mean, "running_var": variance}
        self.updates[node.name] = recalibrated
        return recalibrated

    def _leaky(self, node: Node, samples: int) -> LeakyLayer:
        neuron, simulator = self.graph.module(node), self.simulator
        assert isinstance(neuron, snn.Leaky)
        tensors = self._tensors(node)
        return LeakyLayer(neuron, tensors, simulator.num_steps, samples, simulator._calibrating)

    def _spikes(self, node: Node, layer: LeakyLayer) -> tuple[Tensor, Activity | None]:
        """A layer's spikes, counted."""
        self.simulator.statistics[layer.way] += 1
        value, counts = layer.spikes(), layer.counts()
        scored = self.simulator.scored(value)
        active = None
        if counts is not None:
            active = Activity(counts.sum(0), tuple(scored.shape))
        elif node.index in self.simulator._read_by_connections:
            active = activity(scored)
        fired = int((scored != 0).sum()) if active is None else int(active.per_position.sum())
        self.neurons[node.name] = NeuronCount(fired, scored.numel())
        return value, active

    def _fire_and_read_membrane(self, node: Node, current: Tensor) -> Tensor:
        neuron, simulator = self.graph.module(node), self.simulator
        assert isinstance(neuron, snn.Leaky)
        steps = simulator.num_steps
        value, membrane = fire(neuron, self._tensors(node), current, steps, membrane=True)
        assert membrane is not None
        self.readout = simulator.scored(membrane).mean(0)
        scored = simulator.scored(value)
        self.neurons[node.name] = NeuronCount(int((scored != 0).sum()), scored.numel())
        return value

    # ---------------------------------------------------------------- values

    def _floats(self, value: Tensor) -> Tensor:
        """Spikes kept as bytes in the type of the computation."""
        return value.to(self.simulator._input.dtype) if value.dtype == torch.uint8 else value

    def _store(self, node: Node, value: Tensor, active: Activity | None) -> None:
        """Keeps a value, counts it where SynOps need it, reads it out if it is the output."""
        simulator = self.simulator
        simulator._seen(node, value)
        if node.index == self.graph.output and self.readout is None:
            scored = self._floats(simulator.scored(value))
            self.readout = scored.sum(0) if self.graph.readout == "spikes" else scored.mean(0)
        binary = node.index in simulator._binary
        value = value.to(torch.uint8) if binary else value
        self.values[node.index] = value
        if node.index in simulator._read_by_connections:
            counted = activity(simulator.scored(value)) if active is None else active
            self.activities[node.index] = counted

    def _forget(self, inputs: tuple[int, ...], position: int) -> None:
        """Drops values that no node behind ``position`` reads."""
        for index in {*inputs, position}:
            if self.simulator._last_use.get(index, -1) <= position:
                self.values.pop(index, None)
                self.activities.pop(index, None)

    def _tensors(self, node: Node) -> Tensors:
        """A node's sliced tensors; its parameters are counted."""
        tensors = sliced_tensors(self.graph, node, self.kept)
        trainable = self.graph.module(node)._parameters
        self.parameters += sum(t.numel() for name, t in tensors.items() if name in trainable)
        return tensors


def _pieces(start: int, stop: int, sample_bytes: int) -> Iterator[slice]:
    size = max(1, PIECE_BYTES // max(1, sample_bytes))
    for first in range(start, stop, size):
        yield slice(first, min(stop, first + size))


def accuracy(readout: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest readout is the label, lowest index on ties.

    Args:
        readout: ``(samples, classes)``.
        labels: ``(samples,)``.
    """
    predicted = np.argmax(readout.cpu().numpy(), axis=1)
    return float((predicted == labels.cpu().numpy()).mean())
