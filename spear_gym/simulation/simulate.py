"""A plan run on data, layer by layer.

Time is folded into the batch wherever there is no state, weights are sliced rather than masked,
and a *walk* can stop at every decision: the state of a walk is an immutable value, so any prefix
of a plan can be kept and continued. A whole pass is a walk that never stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spear_gym.pruning.plan import Plan, kept_by_space
from spear_gym.simulation.exact import exact_products
from spear_gym.simulation.layers import Tensors
from spear_gym.simulation.refit import RefitTargets, ridge
from spear_gym.simulation.run import Run, SideBySide
from spear_gym.simulation.structure import (
    binary_nodes,
    blocks,
    last_uses,
    reads_of_connections,
    refitted,
)
from spear_gym.simulation.synops import fanout_map
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import Node, SpikingGraph

Scoring = Literal["plain", "recalibrated", "refit"]
SCORINGS: tuple[Scoring, ...] = ("plain", "recalibrated", "refit")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class Simulator:
    """Runs plans of one network on one set of inputs.

    Args:
        graph: the unpruned, traced network.
        inputs: scored samples, ``(samples, channel, ...)``, or ``(samples, time, channel, ...)``
            when the graph's input varies.
        num_steps: time steps T.
        scoring: how BatchNorm and classifier are treated (docs/definitions.md, "Scoring").
        calibration: calibration samples, needed unless ``scoring`` is ``"plain"``.
        targets: the refit's regression targets, needed by ``"refit"``.
        precision: ``"bfloat16"`` computes convolutions and matrix products in bfloat16, in which
            spikes are exact and weights are not; all else stays as it is.

    Attributes:
        statistics: how often a layer was computed in which way; names every fallback.
        inputs: what is run, ``(time, batch, ...)``, calibration samples before scored ones.
        calibrating: how many calibration samples.
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
        self.calibrating = 0 if scoring == "plain" or calibration is None else len(calibration)
        both = inputs if self.calibrating == 0 else torch.cat([calibration, inputs])  # type: ignore[list-item]
        self.inputs = (both.transpose(0, 1) if graph.varying else both[None]).contiguous()
        self.fanouts = {
            node.index: fanout_map(graph.module(node), graph.nodes[node.inputs[0]].shape[1:])
            for node in graph.connections
        }
        self.last_use = last_uses(graph)
        self._decisions = {group.members[0]: group.space for group in graph.groups}
        self.blocks = blocks(graph)
        self.binary = binary_nodes(graph)
        self.read_by_connections = reads_of_connections(graph)
        self.classifier = refitted(graph).index if scoring == "refit" else -1

    def run(self, plan: Plan | None = None) -> Walk:
        """A whole pass over a plan (``None``: unpruned)."""
        kept = {} if plan is None else kept_by_space(plan, self.graph.groups)
        walk = Walk(kept={space: index.to(self.inputs.device) for space, index in kept.items()})
        return self._run_to(walk, len(self.graph.nodes))

    def scored(self, value: Tensor) -> Tensor:
        """The part of an activation ``(time, batch, ...)`` that belongs to scored samples."""
        return value[:, self.calibrating :]

    def classifier_currents(self) -> Tensor:
        """Mean output current of the unpruned classifier, ``(samples, classes)``."""
        graph = self.graph
        output = replace(graph, output=graph.classifier.index, readout="current")
        inputs = self.inputs[0] if not graph.varying else self.inputs.transpose(0, 1)
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
        return self._run_to(self._decided(walk, kept), self._next_decision(walk.position + 1))

    @torch.no_grad()
    def advance_side_by_side(self, walks: Sequence[Walk], kept: Sequence[Tensor]) -> list[Walk]:
        """:meth:`advance` for several walks that stand before the same decision.

        Connections, their BatchNorm and their neurons are one operation for all walks. Its sums
        may round otherwise than in :meth:`advance`, which now and then moves a spike.

        Args:
            walks: as for :meth:`advance`.
            kept: kept channel indices, for each walk.
        """
        start = walks[0].position
        end = self._next_decision(start + 1)
        runs = [Run(self, self._decided(w, k)) for w, k in zip(walks, kept, strict=True)]
        with exact_products(self.inputs.device):
            for node in self.graph.nodes[start:end]:
                block = self.blocks.get(node.index)
                if block is not None:
                    SideBySide(block, runs).run()
                    continue
                for run in runs:
                    run.visit(node)
        return [run.walk(end) for run in runs]

    def _decided(self, walk: Walk, kept: Tensor) -> Walk:
        """The walk with the group that it stands before decided."""
        space = self._decisions[walk.position]
        group = next(g for g in self.graph.groups if g.space == space)
        decided = dict(walk.kept)
        if len(kept) < group.channels:
            decided[space] = kept.to(self.inputs.device)
        return replace(walk, kept=decided)

    def _next_decision(self, position: int) -> int:
        return min((i for i in self._decisions if i >= position), default=len(self.graph.nodes))

    @torch.no_grad()
    def _run_to(self, walk: Walk, end: int) -> Walk:
        run = Run(self, walk)
        with exact_products(self.inputs.device):
            for node in self.graph.nodes[walk.position : end]:
                run.visit(node)
        return run.walk(end)

    def floats(self, value: Tensor) -> Tensor:
        """Spikes kept as bytes in the type of the computation."""
        return value.to(self.inputs.dtype) if value.dtype == torch.uint8 else value

    def operand(self, value: Tensor) -> Tensor:
        """A factor of a product in the precision of products."""
        return self.floats(value) if self.precision == "float32" else value.bfloat16()

    def refit(self, value: Tensor, tensors: Tensors) -> Tensors:
        """The classifier's tensors for what it reads, ``(time, batch, features)``."""
        assert self.targets is not None
        features = value[:, : self.calibrating].mean(0)
        weight, bias = ridge(features, self.targets, intercept="bias" in tensors)
        return {"weight": weight, "bias": bias} if "bias" in tensors else {"weight": weight}

    def seen(self, node: Node, value: Tensor) -> None:
        """Called with every value that is computed as a whole; a subclass may watch."""


def accuracy(readout: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest readout is the label, lowest index on ties.

    Args:
        readout: ``(samples, classes)``.
        labels: ``(samples,)``.
    """
    predicted = np.argmax(readout.cpu().numpy(), axis=1)
    return float((predicted == labels.cpu().numpy()).mean())
