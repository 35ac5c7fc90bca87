"""The observation: features of the layer to be decided and of the walk so far.

It is a summary, not a Markov state: which channels earlier layers kept is only seen through what
they cost and how much they fire.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from spear_gym.evaluation import PlanEvaluator, PrefixMeasure
from spear_gym.snn.graph import Kind, PrunableGroup

FEATURES: tuple[tuple[str, float], ...] = (
    ("position", 1.0),
    ("is_linear", 1.0),
    ("in_channels", 1.0),
    ("out_channels", 1.0),
    ("spatial_size", 1.0),
    ("kernel_size", 1.0),
    ("stride", 1.0),
    ("kept_inputs", 1.0),
    ("parameter_share", 1.0),
    ("synops_share", 1.0),
    ("input_rate", 1.0),
    ("synops_committed", 2.0),
    ("synops_open", 2.0),
    ("target", 1.0),
    ("previous_action", 1.0),
)
"""Name and upper bound of each entry; every lower bound is 0."""

NAMES = tuple(name for name, _ in FEATURES)
HIGH = np.array([high for _, high in FEATURES], dtype=np.float32)


MEASURED = ("input_rate", "synops_committed")
"""Features that take a measurement of the partly pruned network."""


class ObservationError(ValueError):
    """A feature that there is none of."""


def check_features(names: Sequence[str]) -> None:
    """Checks that there are such features.

    Raises:
        ObservationError: naming the first that there is none of.
    """
    for name in names:
        if name not in NAMES:
            raise ObservationError(
                f"unknown observation feature '{name}'; there are {', '.join(NAMES)}"
            )


class Observer:
    """Makes observations for one evaluator and target.

    Args:
        evaluator: gives the network and what is measured.
        target: the target fraction, shown as a feature.
        hidden: names of features that are shown as 0.

    Raises:
        ObservationError: for a name that no feature has.
    """

    def __init__(self, evaluator: PlanEvaluator, target: float, hidden: Sequence[str] = ()) -> None:
        check_features(hidden)
        self._seen = np.array([name not in hidden for name in NAMES], dtype=np.float32)
        self._target = target
        self._unpruned = evaluator.reference.synops
        rows = [_static_row(evaluator, group) for group in evaluator.space.groups]
        table = np.array(rows, dtype=np.float64)
        largest = table.max(axis=0)
        scaled = [NAMES.index(n) - 1 for n in _SCALED]
        table[:, scaled] /= np.where(largest[scaled] > 0, largest[scaled], 1.0)
        self._static = table

    def __call__(
        self, decided: int, measured: PrefixMeasure, previous_action: float
    ) -> NDArray[np.float32]:
        """The observation once ``decided`` groups are decided.

        Args:
            decided: 0 .. number of groups; at the end the last group's features are shown again.
            measured: what was measured on the walk so far.
            previous_action: the last applied prune ratio, 0 at first.

        Returns:
            float32 ``(15,)`` within [0, HIGH].
        """
        groups = len(self._static)
        row = self._static[min(decided, groups - 1)]
        position, constant = decided / groups, row[: NAMES.index("kept_inputs") - 1]
        shares = row[-2:]
        values = [
            position,
            *constant,
            measured.kept_inputs,
            *shares,
            measured.input_rate,
            measured.synops_committed / self._unpruned,
            measured.synops_open / self._unpruned,
            self._target,
            previous_action,
        ]
        return np.clip(np.array(values, dtype=np.float32), 0.0, HIGH) * self._seen


_SCALED = ("in_channels", "out_channels", "spatial_size", "kernel_size", "stride")


def _static_row(evaluator: PlanEvaluator, group: PrunableGroup) -> list[float]:
    """Kind, geometry and shares of a group; the geometry is that of its first member."""
    graph, reference = evaluator.graph, evaluator.reference
    first = graph.nodes[group.members[0]]
    module = graph.module(first)
    source = graph.nodes[first.inputs[0]]
    spatial = int(np.prod(first.shape[1:])) if len(first.shape) > 1 else 1
    kernel = stride = 1
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        kernel, stride = int(np.prod(module.kernel_size)), int(np.prod(module.stride))
    members = [graph.nodes[i] for i in group.members]
    weights = sum(p.numel() for m in members for p in graph.module(m).parameters())
    synops = sum(reference.layer_synops[m.name] for m in members)
    return [
        float(first.kind is Kind.LINEAR),
        float(source.shape[0]),
        float(first.shape[0]),
        float(spatial),
        float(kernel),
        float(stride),
        weights / reference.parameters,
        synops / reference.synops,
    ]
