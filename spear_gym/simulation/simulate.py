"""A plan run on data, layer by layer.

Time is folded into the batch wherever there is no state, weights are sliced rather than masked,
and a *walk* can stop at every decision: the state of a walk is an immutable value, so any prefix
of a plan can be kept and continued. A whole pass is a walk that never stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spear_gym import device
from spear_gym.pruning.plan import Plan, kept_by_space
from spear_gym.simulation.prepared import (
    PRECISIONS,
    SCORINGS,
    Precision,
    Prepared,
    Scoring,
    Watch,
)
from spear_gym.simulation.refit import RefitTargets
from spear_gym.simulation.run import Run
from spear_gym.simulation.side_by_side import SideBySide, fits_side_by_side
from spear_gym.simulation.walk import Walk
from spear_gym.snn.decision import Decision
from spear_gym.snn.graph import SpikingGraph

__all__ = ["PRECISIONS", "SCORINGS", "Precision", "Scoring", "Simulator", "accuracy"]


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
            spikes are exact and weights are not; all else, recurrent synapses too, stays as it is.
        watch: called with every node and its value, ``(time, samples, ...)``.

    Attributes:
        samples: how many scored samples.
        prepared: what every pass knows before it starts.
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
        precision: Precision = "float32",
        watch: Watch | None = None,
    ) -> None:
        self.graph = graph
        self.samples = len(inputs)
        self.prepared = Prepared(
            graph,
            inputs,
            num_steps,
            scoring=scoring,
            calibration=calibration,
            targets=targets,
            precision=precision,
            watch=watch,
        )
        self._decisions = {group.members[0]: group.space for group in graph.groups}

    @property
    def statistics(self) -> Counter[str]:
        """How often a layer was computed in which way; names every fallback."""
        return self.prepared.statistics

    def run(self, plan: Plan | None = None) -> Walk:
        """A whole pass over a plan (``None``: unpruned)."""
        kept = {} if plan is None else kept_by_space(plan, self.graph.groups)
        place = self.prepared.inputs.device
        walk = Walk(kept={space: index.to(place) for space, index in kept.items()})
        return self._run_to(walk, len(self.graph.nodes))

    def classifier_currents(self) -> Tensor:
        """Mean output current of the unpruned classifier, ``(samples, classes)``."""
        graph, shown = self.graph, self.prepared.inputs
        output = replace(
            graph, output=graph.classifier.index, readout="current", decision=Decision()
        )
        inputs = shown.transpose(0, 1) if graph.varying else shown[0]
        readout = Simulator(output, inputs, self.prepared.num_steps).run().readout
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
        runs = [Run(self.prepared, self._decided(w, k)) for w, k in zip(walks, kept, strict=True)]
        with device.exact_products(self.prepared.inputs.device):
            for node in self.graph.nodes[start:end]:
                block = self.prepared.blocks.get(node.index)
                if block is not None and fits_side_by_side(self.graph, block):
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
            decided[space] = kept.to(self.prepared.inputs.device)
        return replace(walk, kept=decided)

    def _next_decision(self, position: int) -> int:
        return min((i for i in self._decisions if i >= position), default=len(self.graph.nodes))

    @torch.no_grad()
    def _run_to(self, walk: Walk, end: int) -> Walk:
        run = Run(self.prepared, walk)
        with device.exact_products(self.prepared.inputs.device):
            for node in self.graph.nodes[walk.position : end]:
                run.visit(node)
        return run.walk(end)


def accuracy(readout: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest readout is the label, lowest index on ties.

    Args:
        readout: ``(samples, classes)``.
        labels: ``(samples,)``.
    """
    predicted = np.argmax(readout.cpu().numpy(), axis=1)
    return float((predicted == labels.cpu().numpy()).mean())
