"""How sure a line is: the interval of its mean, and that of a single plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .samples import LREError, Sample

FEWEST = 3
"""Fewer samples leave no residual to judge by."""


@dataclass(frozen=True, slots=True)
class LineIntervals:
    """Student's intervals of an ordinary least squares line y = W x + b.

    With n samples, their mean m, S = sum (x_i - m)^2, and the residual spread s on n - 2 degrees of
    freedom, the half widths at x are

        of the mean:     t s sqrt(1/n + (x - m)^2 / S)
        of one plan:     t s sqrt(1 + 1/n + (x - m)^2 / S)

    t being the quantile of Student's distribution. The first shrinks as samples come in, the
    second does not: it tends to t s.

    Attributes:
        weight: W.
        intercept: b.
        samples: n.
        centre: m.
        squares: S.
        spread: s.
        quantile: t.
    """

    weight: float
    intercept: float
    samples: int
    centre: float
    squares: float
    spread: float
    quantile: float

    @classmethod
    def of(cls, samples: Sequence[Sample], confidence: float = 0.95) -> LineIntervals:
        """The intervals of the line through samples.

        Args:
            samples: at least 3; failed ones are left out.
            confidence: two-sided.

        Raises:
            LREError: with fewer samples, or all at one SynOps.
        """
        from scipy.stats import t as student

        good = [sample for sample in samples if not sample.failed]
        x = np.array([sample.scored for sample in good])
        y = np.array([sample.finetuned for sample in good])
        if len(good) < FEWEST or np.ptp(x) < 1e-9:
            raise LREError(
                f"{len(good)} samples at {len(set(x.tolist()))} SynOps values; intervals of a line "
                f"need at least {FEWEST}, not all at one value"
            )
        centre = float(x.mean())
        squares = float(((x - centre) ** 2).sum())
        weight = float((x - centre) @ y) / squares
        intercept = float(y.mean()) - weight * centre
        freedom = len(good) - 2
        spread = math.sqrt(float(((y - weight * x - intercept) ** 2).sum()) / freedom)
        quantile = float(student.ppf((1 + confidence) / 2, freedom))
        return cls(weight, intercept, len(good), centre, squares, spread, quantile)

    def mean_half_width(self, scored: float) -> float:
        """Half width of the interval of the mean at a scored fraction."""
        return self.quantile * self.spread * math.sqrt(self._leverage(scored))

    def plan_half_width(self, scored: float) -> float:
        """Half width of the interval of one further plan at a scored fraction."""
        return self.quantile * self.spread * math.sqrt(1 + self._leverage(scored))

    def scored_at(self, target: float) -> float:
        """The scored fraction whose mean prediction is a target, clipped to [0, 1]."""
        if abs(self.weight) < 1e-9:
            return min(max(target, 0.0), 1.0)
        return min(max((target - self.intercept) / self.weight, 0.0), 1.0)

    def _leverage(self, scored: float) -> float:
        return 1 / self.samples + (scored - self.centre) ** 2 / self.squares
