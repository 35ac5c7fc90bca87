"""Refitting a classifier by ridge regression, the third way of scoring a plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1.0
"""Ridge strength, relative to the mean sum of squares of a feature.

Chosen by hand on digits among 0.01, 0.1, 1, 3, 10, 30 and 100: over 30 plans near 0.3 of the
SynOps, the score's Spearman correlation with the accuracy after one common fine-tune (from the
recalibrated networks) was 0.71, 0.78, 0.89, 0.82, 0.82, 0.77 and 0.73, and the accuracy that
fine-tuning reaches from there was best too. Weaker penalties give a classifier with large weights
that fine-tuning starts badly from. The figures reported for digits come from other plans.
"""


@dataclass(frozen=True)
class RefitTargets:
    """What the classifier's mean current is regressed on.

    The two levels are the unpruned network's own mean currents for the labelled class and for the
    others, so that the refitted output keeps the scale that output neurons and the fine-tuning
    loss are used to.

    Attributes:
        matrix: ``(calibration samples, outputs)``, float64.
    """

    matrix: Tensor

    @classmethod
    def from_currents(cls, currents: Tensor, labels: Tensor, block: int = 1) -> RefitTargets:
        """Levels from the unpruned network's mean currents on the calibration set.

        Args:
            currents: ``(samples, classes * block)``.
            labels: ``(samples,)``.
            block: neighbouring outputs that stand for one class.
        """
        classes = torch.nn.functional.one_hot(labels, currents.shape[1] // block).bool()
        own = classes.repeat_interleave(block, 1)
        high = float(currents[own].double().mean())
        low = float(currents[~own].double().mean())
        if not high > low:
            high, low = 1.0, 0.0
        return cls(torch.where(own, high, low).double())


def ridge(
    features: Tensor, targets: RefitTargets, *, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """Least squares with an L2 penalty and an unpenalised intercept, solved in float64.

    Args:
        features: ``(samples, features)``, the classifier's mean input over time.
        targets: the regression targets.
        intercept: whether the classifier has a bias; without, the bias returned is zero.

    Returns:
        weight ``(outputs, features)`` and bias ``(outputs,)`` in the dtype of ``features``.
    """
    x = features.double()
    mean = x.mean(0) if intercept else x.new_zeros(x.shape[1])
    x = x - mean
    y_mean = targets.matrix.mean(0) if intercept else x.new_zeros(targets.matrix.shape[1])
    gram = x.T @ x
    strength = RIDGE * float(gram.diagonal().mean()) + 1e-9
    gram.diagonal().add_(strength)
    factor = torch.linalg.cholesky(gram)
    weight = torch.cholesky_solve(x.T @ (targets.matrix - y_mean), factor).T
    bias = y_mean - weight @ mean
    return weight.to(features.dtype), bias.to(features.dtype)
