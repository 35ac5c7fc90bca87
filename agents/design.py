"""Design-based agents: a rule with one knob, turned until the target is just kept.

The rule says how many channels each layer keeps. Which ones they are is decided by the evaluator's
criterion, for these agents as for all others: a comparison compares how the budget is spread over
the layers. The original methods also choose the channels by their own score, and SCA regrows
channels while it trains; neither is reproduced here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from spear_gym.evaluation import EvaluationFailed, PlanEvaluator
from spear_gym.pruning.criteria import CRITERIA, Context, CriterionError, group_scores
from spear_gym.simulation.differentiable import fire, node_values
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import private_copy
from spear_gym.training import train

from .base import AgentError, SearchSession

BISECTIONS = 12
RESERVED = BISECTIONS + 1
"""Evaluations that a bisection may need, and that training leaves over."""

PASSES_PER_TRAINING_SAMPLE = 3
"""A training step counts as three forward passes: the backward pass as twice the forward one."""

Knob = Callable[[float], Sequence[float]]
"""From a knob in [0, 1], the larger the smaller the network, to prune ratios."""


class Uniform:
    """The same prune ratio for all groups, the smallest that is predicted to keep the target.

    Bisection on the ratio; ends by itself after a dozen evaluations.
    """

    name = "uniform"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Bisects the ratio."""
        space = session.evaluator.space
        bisect(session, lambda knob: [knob * space.max_ratio] * len(space))


class Ranked(ABC):
    """All channels ranked against each other; the knob is the share that goes.

    Bisection on the share; ends by itself after a dozen evaluations.
    """

    name: str

    def search(self, session: SearchSession, seed: int) -> None:
        """Scores the channels and bisects the share."""
        evaluator = session.evaluator
        scores = self.scores(session, seed)
        everything = np.sort(np.concatenate(scores))

        def ratios(share: float) -> list[float]:
            gone = min(math.floor(share * len(everything) + 0.5), len(everything))
            bar = everything[gone] if gone < len(everything) else np.inf
            return [float((group < bar).mean()) for group in scores]

        if not any(len(group) for group in scores):
            raise AgentError(f"agent '{self.name}' found no channel in {evaluator.workload.name}")
        bisect(session, ratios)

    @abstractmethod
    def scores(self, session: SearchSession, seed: int) -> list[np.ndarray]:
        """A score per channel of every group, ``(channels,)``; higher stays longer."""


class GlobalL1(Ranked):
    """L1 norms of the filters over the mean of their layer, ranked over all layers."""

    name = "global-l1"

    def scores(self, session: SearchSession, seed: int) -> list[np.ndarray]:  # noqa: ARG002
        """Sum over a group's layers (Li et al., ICLR 2017, made to compare between layers)."""
        graph = session.evaluator.graph
        context = Context(graph, {}, np.random.default_rng(0))
        return [group_scores(g, CRITERIA["l1"], context).numpy() for g in graph.groups]


@dataclass(frozen=True)
class NetworkSlimming(Ranked):
    """Network Slimming (Liu et al., ICCV 2017).

    A copy of the network is trained with an L1 penalty on the scales of its BatchNorms; their
    absolute values are then ranked over all layers. Training is charged against the budget.

    Attributes:
        epochs: of training, fewer when the budget would not last.
        penalty: weight of the sum of absolute scales; the paper's for VGG on CIFAR is 1e-4.
    """

    epochs: int = 5
    penalty: float = 1e-4
    name = "network-slimming"

    def __post_init__(self) -> None:
        if self.epochs < 1 or not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise AgentError(
                f"epochs is {self.epochs} and penalty {self.penalty}; they must be at least 1 and 0"
            )

    def scores(self, session: SearchSession, seed: int) -> list[np.ndarray]:
        """Absolute scales after sparse training.

        Raises:
            AgentError: when a group has no BatchNorm of its own.
        """
        evaluator = session.evaluator
        workload = evaluator.workload
        graph = evaluator.graph.rebind(private_copy(evaluator.graph.model))
        self._scales(graph)  # refused before anything is trained
        samples = len(workload.splits.train)
        epochs = min(self.epochs, affordable_epochs(session, samples))
        charge_training(session, epochs * samples, f"{epochs} of {self.epochs} epochs")
        if epochs:
            recipe = replace(workload.finetune, epochs=epochs)
            scales = [
                module.weight
                for module in graph.model.modules()
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine
            ]
            train(
                graph,
                workload.splits.train,
                workload.num_steps,
                recipe,
                seed=seed,
                penalty=lambda: self.penalty * torch.stack([s.abs().sum() for s in scales]).sum(),
            )
        return self._scales(graph)

    def _scales(self, graph: SpikingGraph) -> list[np.ndarray]:
        context = Context(graph, {}, np.random.default_rng(0))
        criterion = CRITERIA["bn_scale"]
        try:
            return [
                group_scores(g, criterion, context, relative=False).numpy() for g in graph.groups
            ]
        except CriterionError as error:
            raise AgentError(f"agent '{self.name}' cannot rank this network: {error}") from error


class MembraneActivity(Ranked):
    """The criterion of SCA (Li et al., ICML 2024): mean absolute membrane potential per channel.

    Ranked over all layers. One pass over the calibration set is charged as an evaluation.
    """

    name = "sca"

    def scores(self, session: SearchSession, seed: int) -> list[np.ndarray]:  # noqa: ARG002
        """Mean over samples, time steps and positions on the calibration set."""
        session.charge(1, "one pass over the calibration set counts as one evaluation")
        evaluator = session.evaluator
        calibration = evaluator.workload.calibration.inputs
        activity = membrane_activity(evaluator.graph, calibration, evaluator.workload.num_steps)
        return [scores.numpy() for scores in activity]


@torch.no_grad()
def membrane_activity(graph: SpikingGraph, inputs: Tensor, num_steps: int) -> list[Tensor]:
    """Mean absolute membrane potential of each group's channels, float64 ``(channels,)``.

    Args:
        graph: the traced network; neurons that are reached by a group's channels count.
        inputs: ``(batch, channel, ...)``, or ``(batch, time, channel, ...)`` when it varies.
        num_steps: time steps T.
    """
    values = node_values(graph, inputs, num_steps, training=False)
    totals = [torch.zeros(group.channels, dtype=torch.float64) for group in graph.groups]
    for node in graph.neurons:
        neuron = graph.module(node)
        membrane = fire(neuron, values[node.inputs[0]], num_steps, membrane=True)
        features = membrane.abs().double().transpose(0, 2).flatten(1).mean(1)
        offset = 0
        for segment in node.channels:
            width = segment.size * segment.repeat
            for total, group in zip(totals, graph.groups, strict=True):
                if group.space == segment.space:
                    own = features[offset : offset + width].view(segment.size, segment.repeat)
                    total += own.mean(1)
            offset += width
    return totals


def bisect(session: SearchSession, ratios: Knob) -> None:
    """Finds the smallest knob whose plan is predicted to keep the target."""
    low, high = 0.0, 1.0
    if _feasible(session, ratios(low)):
        return
    _feasible(session, ratios(high))
    for _ in range(BISECTIONS):
        if session.done:
            return
        middle = (low + high) / 2
        if _feasible(session, ratios(middle)):
            high = middle
        else:
            low = middle


def samples_per_evaluation(evaluator: PlanEvaluator) -> int:
    """Samples that scoring a plan runs: the search split, and what it is calibrated on."""
    workload = evaluator.workload
    calibrating = evaluator.scoring != "plain"
    return len(workload.splits.search) + calibrating * len(workload.calibration)


def affordable_epochs(session: SearchSession, samples: int) -> int:
    """Epochs over so many samples that leave a bisection its evaluations."""
    left = max(0, session.budget - session.spent - RESERVED)
    one = PASSES_PER_TRAINING_SAMPLE * samples / samples_per_evaluation(session.evaluator)
    return math.floor(left / one)


def charge_training(session: SearchSession, samples: int, what: str) -> None:
    """Charges training as evaluations, by counting samples; the clock would differ on resume."""
    one = samples_per_evaluation(session.evaluator)
    charge = math.ceil(PASSES_PER_TRAINING_SAMPLE * samples / one)
    session.charge(
        charge,
        f"training on {samples} samples ({what}), {PASSES_PER_TRAINING_SAMPLE} passes each, "
        f"at {one} samples an evaluation",
    )


def _feasible(session: SearchSession, ratios: Sequence[float]) -> bool:
    """Whether a plan keeps the target; no when it cannot be evaluated."""
    try:
        return session.submit(ratios).feasible
    except EvaluationFailed:
        return False
