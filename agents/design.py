"""Design-based pruning: a rule, not a search, decides how much of each group is kept.

Each rule has one knob and reaches the target by bisection on it. A rule that scores channels ranks
those of all groups together; cutting the n lowest gives a *count* for every group. Which channels a
group keeps is fixed by the evaluator's criterion, for all agents alike, so that a comparison
measures how agents share SynOps out and not which criterion they brought. That is the comparison's
rule, and it differs from the original papers, which remove the very channels that they rank lowest
and fine-tune in their own ways: agents named after a paper here are allocations by its measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spear_gym.pruning.criteria import (
    CRITERIA,
    Context,
    CriterionError,
    bn_scale,
    group_scores,
    own_channels,
)
from spear_gym.pruning.plan import PlanSpace
from spear_gym.simulation.membranes import mean_absolute_membranes
from spear_gym.snn.graph import PrunableGroup, SpikingGraph
from spear_gym.snn.trace import private_copy
from spear_gym.training import Recipe, TrainingDiverged, batches_in, train

from .base import AgentError, SearchSession
from .bisection import bisect
from .charging import charge_forward, charge_training
from .ranges import NOT_NEGATIVE, POSITIVE, whole, with_changes


class Uniform:
    """The same prune ratio for all groups, the smallest that is predicted to keep the target.

    Bisection on the ratio; ends by itself after a dozen evaluations.
    """

    name = "uniform"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Bisects the ratio."""
        space = session.evaluator.space
        bisect(session, lambda ratio: [ratio] * len(space), highest=space.largest_ratio)


def threshold(scores: Sequence[Tensor], space: PlanSpace) -> Callable[[float], np.ndarray]:
    """One threshold on the channel scores of all groups.

    Every group's best channels, as many as it must keep, are out of its reach.

    Args:
        scores: of each group's channels, ``(channels,)``, higher is kept.
        space: gives the fewest channels that each group must keep.

    Returns:
        The prune ratios ``(groups,)`` when a share, 0 to 1, of all channels within reach is cut,
        lowest first, ties to the earlier group.
    """
    reach = [
        np.sort(group.cpu().numpy())[: len(group) - fewest]
        for group, fewest in zip(scores, space.smallest_counts(), strict=True)
    ]
    owners = np.repeat(np.arange(len(space)), [len(group) for group in reach])
    lowest_first = owners[np.argsort(np.concatenate(reach), kind="stable")]
    channels = np.array([group.channels for group in space.groups])

    def ratios_at(share: float) -> np.ndarray:
        cut = lowest_first[: round(share * len(lowest_first))]
        ratios: np.ndarray = np.bincount(cut, minlength=len(space)) / channels
        return ratios

    return ratios_at


# ---------------------------------------------------------------- L1


def l1_scores(graph: SpikingGraph) -> list[Tensor]:
    """L1 norms of every group's filters over their mean in the group, float64 ``(channels,)``."""
    context = Context(graph, {}, np.random.default_rng(0))
    found = [group_scores(group, CRITERIA["l1"], context) for group in graph.groups]
    return [scores / scores.mean() for scores in found]


class GlobalL1:
    """One threshold on the L1 norms of the filters of all groups.

    Filters of different layers have different sizes, so raw norms do not compare; Li et al. (ICLR
    2017) rank inside a layer only. Norms are divided by their mean in the group, as Torch-Pruning
    does by default (DepGraph, Fang et al., CVPR 2023, `normalizer="mean"`); Molchanov et al. (ICLR
    2017) divide by the layer's l2 norm instead.
    """

    name = "global-l1"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Bisects the threshold."""
        evaluator = session.evaluator
        bisect(session, threshold(l1_scores(evaluator.graph), evaluator.space))


# ---------------------------------------------------------------- Network Slimming


@dataclass(frozen=True, slots=True)
class SlimmingSettings:
    """Settings of network-slimming.

    Learning rate and sparsity were chosen by hand on the workload `digits` only: five settings at
    targets 0.3 and 0.15, three seeds each, budget 50 (30 searches). Mean score of the best plan:
    0.913 and 0.807 as set now, 0.870 to 0.893 and 0.766 to 0.792 otherwise.

    Attributes:
        epochs: passes over the train split; 0 ranks the network's own gammas.
        batch_size: samples per step.
        learning_rate: peak, of Adam.
        sparsity: weight of the L1 penalty on gamma. The paper takes 1e-4 over 160 epochs of SGD;
            a few epochs need more to move gammas at all (*reconstructed*).
    """

    epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 1e-2
    sparsity: float = 1e-2

    def recipe(self) -> Recipe:
        """As a recipe of the library."""
        return Recipe(self.epochs, self.batch_size, self.learning_rate)


RANGES = {
    "epochs": whole(0),
    "batch_size": whole(2),
    "learning_rate": POSITIVE,
    "sparsity": NOT_NEGATIVE,
}
"""What the settings may be."""


def scale_scores(graph: SpikingGraph) -> list[Tensor]:
    """|gamma| of every group's channels as it stands, float64 ``(channels,)``.

    The mean over the members of a group with several (*reconstructed*: the paper keeps the ends of
    residual branches and selects channels inside).

    Raises:
        CriterionError: when a member has no affine BatchNorm right behind it.
    """
    context = Context(graph, {}, np.random.default_rng(0))

    def of_group(group: PrunableGroup) -> Tensor:
        members = [graph.nodes[index] for index in group.members]
        return torch.stack([own_channels(m, bn_scale(m, context), group) for m in members]).mean(0)

    return [of_group(group) for group in graph.groups]


class NetworkSlimming:
    """An allocation by Network Slimming's measure: one threshold on |gamma| of BatchNorm.

    A copy of the network is trained with an L1 penalty on the gammas, then the gammas of all groups
    are ranked together as they are, as in the paper (Liu et al., ICCV 2017). It is not that paper's
    method: a few epochs from the trained network instead of sparse training from scratch; Adam
    instead of SGD; the copy's weights are thrown away, and only *how many* channels each group
    keeps is taken over (see the module docstring), while the evaluator's criterion, L1 by default,
    decides which. What it reaches says nothing about Network Slimming.

    Args:
        settings: all of them.
        changes: single ones.

    Raises:
        AgentError: for an unknown setting, with near matches, or one that is out of range.
    """

    name = "network-slimming"
    trains = True

    def __init__(self, settings: SlimmingSettings | None = None, **changes: Any) -> None:
        self.settings = with_changes(self.name, settings or SlimmingSettings(), changes, RANGES)

    def search(self, session: SearchSession, seed: int) -> None:
        """Trains a copy, then bisects the threshold.

        Raises:
            AgentError: when a prunable layer has no BatchNorm, or the training diverges.
        """
        evaluator = session.evaluator
        recipe = self.settings.recipe()
        try:
            scale_scores(evaluator.graph)
        except CriterionError as error:
            raise AgentError(
                f"agent '{self.name}' ranks channels by the gamma of BatchNorm: {error}; or take "
                "another agent, such as 'global-l1'"
            ) from error
        samples = len(evaluator.workload.splits.train)
        batches = charge_training(
            session,
            batches_in(samples, recipe.batch_size, recipe.epochs),
            min(samples, recipe.batch_size),
        )
        graph = self._trained(session, recipe, batches, seed)
        session.updates += batches
        bisect(session, threshold(scale_scores(graph), evaluator.space))

    def _trained(
        self, session: SearchSession, recipe: Recipe, batches: int, seed: int
    ) -> SpikingGraph:
        """A copy after sparse training."""
        workload = session.evaluator.workload
        graph = workload.graph.rebind(private_copy(workload.graph.model))
        norms = [m for m in graph.model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        gammas = []
        for norm in norms:
            # Running statistics are not used, but training refuses a cumulative average.
            norm.momentum = 0.1
            if norm.affine:
                gammas.append(norm.weight.requires_grad_(True))

        def penalty() -> Tensor:
            return self.settings.sparsity * torch.stack([g.abs().sum() for g in gammas]).sum()

        try:
            train(
                graph,
                workload.splits.train,
                workload.num_steps,
                recipe,
                seed=seed,
                objective=workload.objective,
                penalty=penalty,
                max_batches=batches,
            )
        except TrainingDiverged as error:
            raise AgentError(
                f"agent '{self.name}': {error}; learning_rate is its setting"
            ) from error
        return graph


# ---------------------------------------------------------------- SCA


class SCA:
    """An allocation by SCA's measure: spiking channel activity (Li et al., arXiv 2406.01072).

    Channels of all groups are ranked together by the mean absolute membrane potential of their
    neurons, over the calibration set, all time steps and positions. It is not that paper's method,
    which prunes *and regrows* channels by such scores while it trains: here the trained, unpruned
    network is scored once, one threshold gives how many channels each group keeps, and the
    evaluator's criterion, L1 by default, decides which. What it reaches says nothing about SCA. A
    residual group's channels take the mean over its neuron layers (*reconstructed*).
    """

    name = "sca"

    def search(self, session: SearchSession, seed: int) -> None:  # noqa: ARG002 - deterministic
        """Measures membranes in one pass, then bisects the threshold.

        Raises:
            AgentError: when a group drives no neuron, or the budget is too small for the pass.
        """
        workload, space = session.evaluator.workload, session.evaluator.space
        spaces = {segment.space for node in workload.graph.neurons for segment in node.channels}
        for group in space.groups:
            if group.space not in spaces:
                raise AgentError(
                    f"agent '{self.name}' ranks channels by their membrane potential, but those of "
                    f"group '{group.name}' drive no neuron; take another agent, such as 'global-l1'"
                )
        calibration = workload.calibration.inputs
        charge_forward(session, len(calibration), self.name)
        scores = mean_absolute_membranes(workload.graph, calibration, workload.num_steps)
        bisect(session, threshold([scores[group.space] for group in space.groups], space))
