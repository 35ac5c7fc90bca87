"""What a pass over a plan knows before it starts: the network, the samples, and how to score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from spear_gym import device
from spear_gym.simulation.refit import RefitTargets, ridge
from spear_gym.simulation.structure import (
    binary_nodes,
    blocks,
    fanouts,
    last_uses,
    reads_of_connections,
    refitted,
)
from spear_gym.snn.graph import Node, SpikingGraph
from spear_gym.snn.neurons import Tensors

Scoring = Literal["plain", "recalibrated", "refit"]
SCORINGS: tuple[Scoring, ...] = ("plain", "recalibrated", "refit")
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

Watch = Callable[[Node, Tensor], None]
"""Called with every value that is computed as a whole, ``(time, samples, ...)``, scored samples."""


class Prepared:
    """A network and samples, ready for any plan.

    Args:
        graph: the unpruned, traced network.
        inputs: scored samples, ``(samples, channel, ...)``, or ``(samples, time, channel, ...)``
            when the graph's input varies.
        num_steps: time steps T.
        scoring: how BatchNorm and classifier are treated.
        calibration: calibration samples, needed unless ``scoring`` is ``"plain"``.
        targets: the refit's regression targets, needed by ``"refit"``.
        precision: of convolutions and matrix products.
        watch: sees every value.

    Attributes:
        statistics: how often a layer was computed in which way; names every fallback.
        inputs: what is run, ``(time, batch, ...)``, calibration samples before scored ones.
        calibrating: how many calibration samples.
        fanouts: of every connection and of every layer's recurrent synapses, by node.
        blocks: what is run in pieces, by the node of the connection.
        binary: nodes whose values are 0 or 1 and are kept as bytes.
        last_use: node -> the last node that reads it.
        counted: nodes whose non-zero entries SynOps need.
        classifier: the node that is refitted, -1 for none.
    """

    statistics: Counter[str]

    def __init__(
        self,
        graph: SpikingGraph,
        inputs: Tensor,
        num_steps: int,
        *,
        scoring: Scoring,
        calibration: Tensor | None,
        targets: RefitTargets | None,
        precision: Precision,
        watch: Watch | None,
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
        self.targets = targets
        self.statistics = Counter()
        self.calibrating = 0 if scoring == "plain" or calibration is None else len(calibration)
        both = inputs if self.calibrating == 0 else torch.cat([calibration, inputs])  # type: ignore[list-item]
        self.inputs = (both.transpose(0, 1) if graph.varying else both[None]).contiguous()
        self.fanouts = fanouts(graph)
        self.blocks = blocks(graph)
        self.binary = binary_nodes(graph)
        self.last_use = last_uses(graph)
        self.counted = reads_of_connections(graph)
        self.classifier = refitted(graph).index if scoring == "refit" else -1
        self.watch = watch

    def scored(self, value: Tensor) -> Tensor:
        """The part of an activation ``(time, batch, ...)`` that belongs to scored samples."""
        return value[:, self.calibrating :]

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

    def watched(self, node: Node, value: Tensor) -> None:
        """Shows a value, ``(time, batch, ...)``, to whoever watches."""
        if self.watch is not None:
            self.watch(node, self.scored(value))

    def pieces(self, start: int, sample_bytes: int) -> Iterator[slice]:
        """Slices of the samples from the one at ``start``, each of a size that is run at a time.

        Args:
            start: the first sample.
            sample_bytes: memory that a sample takes.
        """
        most = device.piece_bytes(self.inputs.device)
        size, stop = max(1, most // max(1, sample_bytes)), self.inputs.shape[1]
        for first in range(start, stop, size):
            yield slice(first, min(stop, first + size))
