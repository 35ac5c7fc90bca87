"""Channel criteria: how important each output channel of a group is.

Every criterion scores the channels of one member layer; a group's score is the sum over its
members, each divided by its own mean (docs/definitions.md, "Plan"). Ranking is done once, on the
unpruned network, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spear_gym.snn.graph import Kind, Node, PrunableGroup, SpikingGraph

Gradients = Mapping[str, Tensor]
"""Parameter name -> gradient of the loss on the calibration set."""


class CriterionError(ValueError):
    """A criterion is unknown or does not fit the network."""


@dataclass(frozen=True, slots=True)
class Context:
    """What criteria may look at besides the member layer."""

    graph: SpikingGraph
    gradients: Gradients
    generator: np.random.Generator


@dataclass(frozen=True, slots=True)
class Criterion:
    """A way to score channels.

    Attributes:
        score: ``(member, context) -> (channels of the member,)`` in float64, higher is kept.
        needs_gradients: whether the context must hold gradients.
        source: where it comes from.
    """

    score: Callable[[Node, Context], Tensor]
    needs_gradients: bool
    source: str


def _filters(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64).flatten(1)


def l1_norm(member: Node, context: Context) -> Tensor:
    """Sum of absolute weights of each filter, over all inputs (Li et al., ICLR 2017)."""
    weight = context.graph.module(member).weight
    assert isinstance(weight, Tensor)
    return _filters(weight).abs().sum(1)


def bn_scale(member: Node, context: Context) -> Tensor:
    """|gamma| of the BatchNorm behind the layer (Network Slimming, Liu et al., ICCV 2017).

    The mean of them where each time step has a BatchNorm of its own.

    Raises:
        CriterionError: when no affine BatchNorm follows the layer.
    """
    for node in context.graph.nodes:
        if node.kind is Kind.NORM and node.inputs == (member.index,):
            gammas = [norm.weight for norm in context.graph.modules_of_steps(node)]
            if all(isinstance(gamma, Tensor) for gamma in gammas):
                stacked = torch.stack([gamma.detach().double() for gamma in gammas])  # type: ignore[operator]
                return stacked.abs().mean(0)
    raise CriterionError(
        f"criterion 'bn_scale' needs an affine BatchNorm right behind '{member.name}', which has "
        "none; use 'l1' or 'taylor'"
    )


def taylor(member: Node, context: Context) -> Tensor:
    """First-order Taylor expansion of the loss: |sum of weight * gradient| of each filter.

    Molchanov et al., ICLR 2017; the gradient is that of the training loss on the calibration set.
    """
    weight = context.graph.module(member).weight
    assert isinstance(weight, Tensor)
    gradient = context.gradients.get(f"{member.module}.weight")
    if gradient is None:
        raise CriterionError(
            f"criterion 'taylor' needs a gradient for '{member.name}', which gets none (is its "
            "neurons' surrogate disabled?); use 'l1'"
        )
    return (_filters(weight) * _filters(gradient)).sum(1).abs()


def random_scores(member: Node, context: Context) -> Tensor:
    """Uniform random numbers, the control."""
    return torch.from_numpy(context.generator.uniform(0.5, 1.5, size=member.shape[0]))


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1_norm, False, "Li et al., ICLR 2017"),
    "bn_scale": Criterion(bn_scale, False, "Liu et al., ICCV 2017"),
    "taylor": Criterion(taylor, True, "Molchanov et al., ICLR 2017"),
    "random": Criterion(random_scores, False, "control"),
}


def group_scores(group: PrunableGroup, criterion: Criterion, context: Context) -> Tensor:
    """Score of each channel of a group, float64 ``(channels,)``."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    for index in group.members:
        member = context.graph.nodes[index]
        scores = own_channels(member, criterion.score(member, context).cpu(), group)
        mean = scores.mean()
        total += scores / mean if mean > 0 else torch.ones_like(scores)
    return total


def own_channels(member: Node, scores: Tensor, group: PrunableGroup) -> Tensor:
    """The scores of those channels of a member that belong to the group, summed over features.

    Raises:
        CriterionError: when there are none.
    """
    offset = 0
    for segment in member.channels:
        features = segment.size * segment.repeat
        if segment.space == group.space:
            return scores[offset : offset + features].view(segment.size, segment.repeat).sum(1)
        offset += features
    raise CriterionError(f"layer '{member.name}' has no channel of group '{group.name}'")


def rank_channels(
    graph: SpikingGraph, criterion: str, *, gradients: Gradients | None = None, seed: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Channels of every group, most important first, ties to the lower index.

    Args:
        graph: the traced, unpruned network.
        criterion: a name in :data:`CRITERIA`.
        gradients: needed by criteria with ``needs_gradients``.
        seed: for the random control.

    Raises:
        CriterionError: for an unknown criterion, or one that does not fit the network.
    """
    if criterion not in CRITERIA:
        raise CriterionError(
            f"unknown criterion '{criterion}'; choose one of {', '.join(CRITERIA)}"
        )
    chosen = CRITERIA[criterion]
    if chosen.needs_gradients and gradients is None:
        raise CriterionError(f"criterion '{criterion}' needs gradients on the calibration set")
    context = Context(graph, gradients or {}, np.random.default_rng(seed))
    rankings = []
    for group in graph.groups:
        scores = group_scores(group, chosen, context).numpy()
        rankings.append(tuple(np.argsort(-scores, kind="stable").tolist()))
    return tuple(rankings)
