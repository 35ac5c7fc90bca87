"""Anytime curves: what a search has found, against what it has spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import StatisticsError

FLOOR = 0.0
"""Height of a curve before the first plan that keeps the target: no accuracy."""


@dataclass(frozen=True, slots=True)
class Anytime:
    """The best value so far as a step function of spent evaluations.

    Attributes:
        spent: ``(points,)`` evaluations spent, ascending, from 1.
        best: ``(points,)`` best value so far, ``None`` while there is none.
    """

    spent: tuple[int, ...]
    best: tuple[float | None, ...]

    def heights(self, budget: int, floor: float = FLOOR) -> NDArray[np.float64]:
        """The value at 1, 2, ... ``budget`` spent evaluations, ``(budget,)``.

        Raises:
            StatisticsError: when the curve goes beyond the budget, or does not ascend.
        """
        steps = zip(self.spent, self.spent[1:], strict=False)
        if any(later <= earlier for earlier, later in steps):
            raise StatisticsError(f"spent evaluations must ascend, got {self.spent}")
        if self.spent and not (self.spent[0] >= 1 and self.spent[-1] <= budget):
            raise StatisticsError(
                f"spent evaluations {self.spent[0]}..{self.spent[-1]} are not within 1..{budget}"
            )
        heights = np.full(budget, floor)
        for at, value in zip(self.spent, self.best, strict=True):
            heights[at - 1 :] = floor if value is None else value
        return heights

    def area(self, budget: int, floor: float = FLOOR) -> float:
        """Mean height over the budget: the area under the curve over the budget."""
        return float(self.heights(budget, floor).mean())

    def evaluations_to_reach(self, level: float) -> float:
        """Evaluations spent when the value first reached a level, infinite if it never did."""
        for at, value in zip(self.spent, self.best, strict=True):
            if value is not None and value >= level:
                return float(at)
        return math.inf


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Area of (accuracy, SynOps fraction) that a front dominates, within [0, 1] x [0, 1].

    Accuracy is maximised and the fraction minimised; the reference is accuracy 0 at fraction 1.
    Points outside the square count as far as they reach into it.
    """
    volume, reached = 0.0, 0.0
    for fraction, accuracy in sorted((f, a) for a, f in points):
        if accuracy > reached and fraction < 1.0:
            volume += (min(accuracy, 1.0) - reached) * (1.0 - max(fraction, 0.0))
            reached = min(accuracy, 1.0)
    return volume
