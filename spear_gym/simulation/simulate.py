"""A plan run on data, layer by layer.

Time is folded into the batch wherever there is no state, weights are sliced rather than masked,
and a *walk* can stop at every decision: the state of a walk is an immutable value, so any prefix
of a plan can be kept and continued. A whole pass is a walk that never stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor

from spear_gym.pruning.plan import Plan, kept_by_space
from spear_gym.pruning.slicing import sliced_tensors
from spear_gym.simulation.layers import channel_moments, combine, connect, fire, normalise
from spear_gym.simulation.refit import RefitTargets, ridge
from spear_gym.simulation.synops import (
    EXACT_FLOAT32,
    Activity,
    LayerCount,
    activity,
    count_layer,
    fanout_map,
)
from spear_gym.snn.graph import CONNECTIONS, Kind, Node, SpikingGraph

Scoring = Literal["plain", "recalibrated", "refit"]
SCORINGS: tuple[Scoring, ...] = ("plain", "recalibrated", "refit")


@dataclass(frozen=True, slots=True)
class NeuronCount:
    """Spikes and neuron updates of a neuron layer over all samples and time steps."""

    spikes: int
    updates: int

    @property
    def rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.spikes / self.updates


@dataclass(frozen=True)
class Walk:
    """A pass through the network, stopped before node ``position``.

    Attributes:
        position: index of the next node to run.
        kept: decisions so far: kept indices by channel space (absent: all).
        values: live activations by node, ``(time, batch, ...)``.
        activities: non-zero entries of the live activations that connection layers read.
        layers: counts of the connection layers run so far, by node name.
        neurons: counts of the neuron layers run so far, by node name.
        updates: tensors that scoring changed (BatchNorm statistics, classifier), by node name.
        widths: output channels of the connection layers run so far, by node name.
        parameters: trainable parameters of the layers run so far.
        readout: ``(samples, classes)`` once the walk has ended.
    """

    position: int = 0
    kept: Mapping[int, Tensor] = field(default_factory=dict)
    values: Mapping[int, Tensor] = field(default_factory=dict)
    activities: Mapping[int, Activity] = field(default_factory=dict)
    layers: Mapping[str, LayerCount] = field(default_factory=dict)
    neurons: Mapping[str, NeuronCount] = field(default_factory=dict)
    updates: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    readout: Tensor | None = None

    @property
    def synops(self) -> int:
        """SynOps of the layers run so far, summed over all samples."""
        return sum(count.synops for count in self.layers.values())

    def nbytes(self) -> int:
        """Memory of the live activations, bytes."""
        return sum(v.element_size() * v.numel() for v in self.values.values())


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
    """

    def __init__(
        self,
        graph: SpikingGraph,
        inputs: Tensor,
        num_steps: int,
        *,
        scoring: Scoring = "plain",
        calibration: Tensor | None = None,
        targets: RefitTargets | None = None,
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
        self.scoring: Scoring = scoring
        self.targets = targets
        self.samples = len(inputs)
        self._calibrating = 0 if scoring == "plain" or calibration is None else len(calibration)
        both = inputs if self._calibrating == 0 else torch.cat([calibration, inputs])  # type: ignore[list-item]
        self._input = (both.transpose(0, 1) if graph.varying else both[None]).contiguous()
        self._fanouts = {
            node.index: fanout_map(graph.module(node), graph.nodes[node.inputs[0]].shape[1:])
            for node in graph.connections
        }
        self._last_use = _last_uses(graph)
        self._decisions = {group.members[0]: group.space for group in graph.groups}
        self._private = _private_outputs(graph)
        self._binary = _binary_nodes(graph)
        self._read_by_connections = {node.inputs[0] for node in graph.connections}
        self._classifier = _refitted(graph).index if scoring == "refit" else -1

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
    def _run_to(self, walk: Walk, end: int) -> Walk:  # noqa: C901 - one branch per kind of node
        values, updates = dict(walk.values), dict(walk.updates)
        activities = dict(walk.activities)
        layers, neurons, widths = dict(walk.layers), dict(walk.neurons), dict(walk.widths)
        readout, parameters = walk.readout, walk.parameters
        for node in self.graph.nodes[walk.position : end]:
            tensors = sliced_tensors(self.graph, node, walk.kept) if node.module is not None else {}
            sources = [values[i] for i in node.inputs]
            membrane = None
            parameters += self._parameters(node, tensors)
            if node.kind is Kind.INPUT:
                value = self._input
            elif node.kind in CONNECTIONS:
                layers[node.name] = self._count(node, activities[node.inputs[0]], tensors)
                if node.index == self._classifier:
                    tensors = self._refit(sources[0], tensors)
                    updates[node.name] = tensors
                widths[node.name] = len(tensors["weight"])
                value = connect(node, self.graph.module(node), tensors, sources[0])
            elif node.kind is Kind.NORM:
                if self._calibrating:
                    tensors = self._recalibrate(tensors, sources[0])
                    updates[node.name] = tensors
                # A connection's output made in this very run and read by nobody else.
                fresh = node.inputs[0] in self._private and node.inputs[0] >= walk.position
                value = normalise(self.graph.module(node), tensors, sources[0], in_place=fresh)
            elif node.kind is Kind.NEURON:
                value, membrane = self._fire(node, tensors, sources[0])
                neurons[node.name] = self._spikes(node, value)
            else:
                value = combine(node, sources)
            if node.index == self.graph.output:
                readout = self._read(value, membrane)
            values[node.index] = value
            if node.index in self._read_by_connections:
                binary = node.index in self._binary
                activities[node.index] = activity(self.scored(value), binary=binary)
            for index in {*node.inputs, node.index}:
                if self._last_use.get(index, -1) <= node.index:
                    del values[index]
                    activities.pop(index, None)
        return Walk(
            end,
            walk.kept,
            values,
            activities,
            layers,
            neurons,
            updates,
            widths,
            parameters,
            readout,
        )

    def _parameters(self, node: Node, tensors: Mapping[str, Tensor]) -> int:
        if not tensors:
            return 0
        trainable = self.graph.module(node)._parameters
        return sum(tensor.numel() for name, tensor in tensors.items() if name in trainable)

    def _spikes(self, node: Node, value: Tensor) -> NeuronCount:
        scored = self.scored(value)
        if node.index in self._binary and scored[0].numel() < EXACT_FLOAT32:
            return NeuronCount(sum(int(frame.sum()) for frame in scored), scored.numel())
        return NeuronCount(int((scored != 0).sum()), scored.numel())

    def _count(self, node: Node, active: Activity, tensors: Mapping[str, Tensor]) -> LayerCount:
        weight = tensors["weight"]
        groups = active.shape[2] // weight.shape[1]
        return count_layer(
            active,
            self._fanouts[node.index],
            weight.shape[0] // groups,
            self.num_steps,
            analog=node.analog,
        )

    def _recalibrate(self, tensors: Mapping[str, Tensor], value: Tensor) -> dict[str, Tensor]:
        """Mean and biased variance over all calibration samples, steps and positions."""
        mean, variance = channel_moments(value[:, : self._calibrating])
        return {**tensors, "running_mean": mean, "running_var": variance}

    def _refit(self, value: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self.targets is not None
        features = value[:, : self._calibrating].mean(0)
        weight, bias = ridge(features, self.targets, intercept="bias" in tensors)
        return {"weight": weight, "bias": bias} if "bias" in tensors else {"weight": weight}

    def _fire(
        self, node: Node, tensors: Mapping[str, Tensor], current: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        neuron = self.graph.module(node)
        assert isinstance(neuron, snn.Leaky)
        wanted = node.index == self.graph.output and self.graph.readout == "membrane"
        return fire(neuron, tensors, current, self.num_steps, membrane=wanted)

    def _read(self, value: Tensor, membrane: Tensor | None) -> Tensor:
        """The readout of every scored sample, ``(samples, classes)``."""
        shown = membrane if membrane is not None else value
        scored = self.scored(shown)
        return scored.sum(0) if self.graph.readout == "spikes" else scored.mean(0)


def _refitted(graph: SpikingGraph) -> Node:
    node = graph.classifier
    if node.kind is not Kind.LINEAR:
        raise ValueError(
            f"scoring 'refit' needs a linear classifier, but '{node.name}' is a convolution; use "
            "'recalibrated'"
        )
    return node


def _last_uses(graph: SpikingGraph) -> dict[int, int]:
    uses: dict[int, int] = {}
    for node in graph.nodes:
        for index in node.inputs:
            uses[index] = node.index
    return uses


def _private_outputs(graph: SpikingGraph) -> frozenset[int]:
    """Connections whose output exactly one node reads, so that it may overwrite it."""
    readers: dict[int, int] = {}
    for node in graph.nodes:
        for index in node.inputs:
            readers[index] = readers.get(index, 0) + 1
    private = {node.index for node in graph.connections if readers.get(node.index) == 1}
    return frozenset(private - {graph.output})


def _binary_nodes(graph: SpikingGraph) -> frozenset[int]:
    """Nodes whose values are all 0 or 1: spikes, and what only moves or selects them."""
    binary: set[int] = set()
    for node in graph.nodes:
        if node.kind is Kind.NEURON:
            factor = graph.module(node).graded_spikes_factor
            assert isinstance(factor, Tensor)
            if bool((factor == 1).all()):
                binary.add(node.index)
        elif (node.kind in _SELECTING or _is_max_pool(node)) and binary.issuperset(node.inputs):
            binary.add(node.index)
    return frozenset(binary)


_SELECTING = frozenset({Kind.FLATTEN, Kind.DROPOUT, Kind.CONCAT})


def _is_max_pool(node: Node) -> bool:
    function = node.function
    return isinstance(function, partial) and function.func in (F.max_pool1d, F.max_pool2d)


def accuracy(readout: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest readout is the label, lowest index on ties.

    Args:
        readout: ``(samples, classes)``.
        labels: ``(samples,)``.
    """
    predicted = np.argmax(readout.cpu().numpy(), axis=1)
    return float((predicted == labels.cpu().numpy()).mean())
