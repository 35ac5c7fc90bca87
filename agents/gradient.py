"""Gradient-based pruning: channel gates trained under a Lagrangian SynOps constraint.

    loss = cross-entropy + lambda * max(0, r - 1),   r = predicted SynOps fraction / target
    lambda <- max(0, lambda + eta * (r - 1))         after every batch (dual ascent)

Every gate is open with the probability sigmoid(logit): drawn anew for each batch, 0 or 1 in the
forward pass, the gradient that of a binary concrete variable (straight-through Gumbel-softmax, Jang
et al., ICLR 2017, for two outcomes; temperature 2/3 as Louizos et al., ICLR 2018). Soft gates would
only scale spikes, which the next BatchNorm undoes, and gates rounded without noise all close in the
same step and never reopen (tried). SynOps are those of :mod:`spear_gym.simulation.gated` at the
probabilities. No one paper is followed: the combination is *reconstructed* from budgeted gate
training as it is common (Louizos et al.; Lemaire et al., CVPR 2019).

Weights stay as they are, for plans are scored with these very weights; BatchNorm normalises by the
batch where scoring recalibrates it. Only the train split is read. The SynOps fraction in training
is over the unpruned network's on search, a constant that every agent knows.

What the gates decide is how many channels each group keeps; which ones is left to the evaluator's
criterion, for all agents alike, so a gate that learned *which* channel matters is not heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_gym.device import exact_products
from spear_gym.lre import SynopsEstimator
from spear_gym.pruning.plan import PlanSpace
from spear_gym.simulation.gated import GatedNetwork
from spear_gym.snn.trace import private_copy
from spear_gym.training import batches_in, sample_batches, seeded

from .base import AgentError, SearchSession
from .bisection import bisect
from .charging import charge_training
from .ranges import POSITIVE, real, whole, with_changes


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Settings of the gates.

    Learning rate, first logit and dual rate were chosen by hand on the workload `digits` only:
    eleven settings at targets 0.3 and 0.15, three seeds each, budget 50 (66 searches). Mean score
    of the best plan: 0.936 and 0.833 as set now; over all settings 0.926 to 0.936 and 0.804 to
    0.839.

    Attributes:
        epochs: passes over the train split; 0 leaves all gates open.
        batch_size: samples per step.
        learning_rate: of Adam on the logits.
        logit: that all gates begin with.
        dual_rate: eta, the speed of lambda.
        multiplier: lambda at the beginning.
    """

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.2
    logit: float = 0.0
    dual_rate: float = 0.1
    multiplier: float = 0.0


RANGES = {
    "epochs": whole(0),
    "batch_size": whole(2),
    "learning_rate": POSITIVE,
    "logit": real(),
    "dual_rate": POSITIVE,
    "multiplier": real(),
}
"""What the settings may be."""

TEMPERATURE = 2 / 3
"""Of the concrete distribution (Louizos et al., ICLR 2018, section 4)."""


def drawn_gates(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gates of 0 or 1, 1 with the probability sigmoid(logit); the gradient is the concrete's."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    noise = torch.logit(uniform, eps=1e-6).to(logits.dtype)
    soft = torch.sigmoid((logits + noise) / TEMPERATURE)
    return (logits + noise > 0).to(soft.dtype) + (soft - soft.detach())


def predicted(estimator: SynopsEstimator, scored: Tensor) -> Tensor:
    """The estimator's prediction, differentiable.

    The slope is that between the scored fraction and half of it, exact for a line. It is taken at
    1 at most: beyond, predictions may be clipped, and a slope of 0 would free the gates.

    Args:
        estimator: predicts the SynOps fraction after fine-tuning.
        scored: the scored fraction, a scalar.
    """
    value = float(scored.detach())
    at = min(max(value, 1e-6), 1.0)
    slope = (estimator.predict(at) - estimator.predict(at / 2)) / (at / 2)
    return estimator.predict(value) + slope * (scored - scored.detach())


class GateSearch:
    """Trains channel gates, then bisects a common factor on the sums of their probabilities.

    See the module docstring.

    Args:
        settings: all of them.
        changes: single ones.

    Raises:
        AgentError: for an unknown setting, with near matches, or one that is out of range.
    """

    name = "gates"
    trains = True

    def __init__(self, settings: GateSettings | None = None, **changes: Any) -> None:
        self.settings = with_changes(self.name, settings or GateSettings(), changes, RANGES)

    def search(self, session: SearchSession, seed: int) -> None:
        """Trains gates, then bisects.

        Raises:
            AgentError: when the training diverges.
        """
        settings = self.settings
        samples = len(session.evaluator.workload.splits.train)
        batches = charge_training(
            session,
            batches_in(samples, settings.batch_size, settings.epochs),
            min(samples, settings.batch_size),
        )
        logits = self._trained(session, batches, seed)
        session.updates += batches
        sums = np.array([float(torch.sigmoid(value).sum()) for value in logits.values()])
        bisect(session, scaled(sums, session.evaluator.space))

    def _trained(self, session: SearchSession, batches: int, seed: int) -> dict[int, Tensor]:
        """Logits by channel space after training, in the order of the groups."""
        settings, evaluator = self.settings, session.evaluator
        data, device = evaluator.workload.splits.train, evaluator.workload.device
        network = _frozen(session)
        batchwise = evaluator.scoring != "plain"
        logits = {
            group.space: torch.full((group.channels,), settings.logit, requires_grad=True)
            for group in evaluator.space.groups
        }
        optimizer = torch.optim.Adam(list(logits.values()), lr=settings.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        multiplier = settings.multiplier
        with seeded(seed, device), exact_products(device):  # the seed is that of dropout
            for index in sample_batches(len(data), settings.batch_size, batches, generator):
                readout, synops = network.forward(
                    data.inputs[index],
                    {space: drawn_gates(v, generator).to(device) for space, v in logits.items()},
                    training=batchwise,
                    bn_time="pooled",
                    counted={space: torch.sigmoid(v).to(device) for space, v in logits.items()},
                )
                fraction = synops / evaluator.reference.synops
                over = predicted(session.judge.estimator, fraction) / session.judge.target - 1
                loss = F.cross_entropy(readout, data.labels[index]) + multiplier * over.clamp(min=0)
                _check_finite(loss)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                multiplier = max(0.0, multiplier + settings.dual_rate * float(over.detach()))
        return {space: value.detach() for space, value in logits.items()}


def _frozen(session: SearchSession) -> GatedNetwork:
    """A copy of the network whose weights stay as they are."""
    workload = session.evaluator.workload
    model = private_copy(workload.graph.model).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # Running statistics are not used, but training refuses a cumulative average.
            module.momentum = 0.1
    return GatedNetwork(workload.graph.rebind(model), workload.num_steps)


def _check_finite(loss: Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise AgentError(
            f"agent 'gates': the training loss became {float(loss.detach())}; take another agent, "
            "such as 'global-l1', or see whether the unpruned network's output is finite"
        )


def scaled(sums: np.ndarray, space: PlanSpace) -> Callable[[float], np.ndarray]:
    """Counts in fixed proportions, scaled by one factor.

    Args:
        sums: expected open gates of each group, ``(groups,)``.
        space: gives the channels that each group has and must keep.

    Returns:
        The prune ratios ``(groups,)`` at a position of the knob: at 0 every group is whole, at 1
        every group is as small as it may be, and the factor falls geometrically between.
    """
    channels = np.array([group.channels for group in space.groups])
    fewest = np.array(space.smallest_counts())
    counts = np.maximum(sums, fewest)
    largest, smallest = float((channels / counts).max()), float((fewest / counts).min())

    def ratios_at(position: float) -> np.ndarray:
        factor = largest ** (1 - position) * smallest**position
        ratios: np.ndarray = 1.0 - np.minimum(1.0, factor * counts / channels)
        return ratios

    return ratios_at
