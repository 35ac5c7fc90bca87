"""An upper bound on the SynOps after fine-tuning, at a confidence: the jackknife+.

For one-sided bounds (Barber et al., Annals of Statistics 49, 2021, whose intervals have two
sides): leave out each of the n samples in turn, refit, and note how far the sample left out lies
above its prediction, R_i = y_i - f_-i(x_i). The bound for a new plan x is

    U(x) = the ceil(c (n + 1))-th smallest of f_-i(x) + R_i,   i = 1..n

at confidence c. If the new plan is exchangeable with the samples, y <= U(x) with a probability of
about c, and never less than 1 - 2 (1 - c), whatever the distribution of the noise. That is a mean
over all fits: given one fit of n = 19 samples and c = 0.95, the bound is its largest residual, and
covers 95 % of the plans with a probability of about 0.62. Plans that a search chose are *not*
exchangeable with random ones; how often the bound holds for them is measured
(docs/results/promise.md). The f_-i are not clipped: a sample beyond the largest prediction would
else count as a residual however well the model meets it, and raise every bound. Where the estimator
fits poorly, the bound is widened: (1 - c) is halved, so that the worst case, too, holds with
confidence c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .estimators import FittedEstimator, SynopsEstimator, fewest_samples, fitted_to
from .families import Features
from .samples import LREError

DEFAULT_CONFIDENCE = 0.95
NO_BOUND = 0.5
"""Confidence up to which the prediction itself is used, without a bound."""


def samples_needed(confidence: float) -> int:
    """Fewest samples with which a bound at a confidence is finite: ceil(c (n + 1)) <= n.

    Raises:
        LREError: when the confidence is not inside (0, 1).
    """
    check_confidence(confidence)
    # Rounded first: 0.95 / (1 - 0.95) is a little more than 19 in floating point.
    return math.ceil(round(confidence / (1 - confidence), 9))


def check_confidence(confidence: float) -> None:
    """Refuses a confidence outside (0, 1); raises :class:`LREError`."""
    if not 0.0 < confidence < 1.0:
        raise LREError(
            f"confidence is {confidence:g}; it must lie inside (0, 1), e.g. 0.95, or be 'off'"
        )


def widened(confidence: float) -> float:
    """The confidence at which the bound of a poor fit is taken: 1 - (1 - c) / 2."""
    return 1 - (1 - confidence) / 2


def upper_bound(left_out: Features, above: Features, confidence: float) -> Features:
    """The jackknife+ bound U, see the module's docstring.

    Args:
        left_out: f_-i(x), ``(..., n)``: the plan's prediction by the fits without one sample.
        above: R_i, ``(..., n)``: how far each sample lies above its prediction by the fit without
            it.
        confidence: c; n is at least :func:`samples_needed`.

    Returns:
        ``(...)``.
    """
    candidates = np.sort(left_out + above, axis=-1)
    rank = math.ceil(round(confidence * (candidates.shape[-1] + 1), 9))
    return np.asarray(candidates[..., rank - 1])


@dataclass(frozen=True)
class BoundedEstimator:
    """An estimator that predicts an upper bound; made by :func:`bounded`.

    Attributes:
        estimate: the fit whose prediction is bounded.
        confidence: asked for.
        widened: the fit is poor, so the bound was taken at a higher one.
        max_prediction: the largest bound it gives.
    """

    estimate: FittedEstimator
    confidence: float
    widened: bool
    max_prediction: float
    _leave_one_out: Sequence[FittedEstimator] = field(repr=False, compare=False)
    _above: Features = field(repr=False, compare=False)
    _used: float = field(repr=False)

    def predict(self, scored: float, layers: Sequence[float] = ()) -> float:
        """The bound on the SynOps fraction after fine-tuning, clipped to [0, p_max]."""
        return min(max(self._bound(scored, layers), 0.0), self.max_prediction)

    def _bound(self, scored: float, layers: Sequence[float]) -> float:
        found = [one.unclipped(scored, layers) for one in self._leave_one_out]
        return float(upper_bound(np.array(found), self._above, self._used))


def estimate_of(estimator: SynopsEstimator) -> SynopsEstimator:
    """The prediction itself, of an estimator that may be its bound."""
    return estimator.estimate if isinstance(estimator, BoundedEstimator) else estimator


def bounded(fit: SynopsEstimator, confidence: float) -> SynopsEstimator:
    """The upper bound of a fit's prediction at a confidence, see the module's docstring.

    Args:
        fit: has its samples with it.
        confidence: inside (0, 1); up to 0.5 the fit itself is returned.

    Raises:
        LREError: when the fit has too few samples for a bound at this confidence, or is none.
    """
    check_confidence(confidence)
    if confidence <= NO_BOUND:
        return fit
    if not isinstance(fit, FittedEstimator):
        raise LREError(
            f"without a prediction of SynOps (lre 'none') there is no bound at confidence "
            f"{confidence:g}; choose confidence 'off', or a fit"
        )
    samples = fit.fitted
    used = widened(confidence) if fit.poor else confidence
    least = max(samples_needed(used), fewest_samples(fit.family, samples) + 1)
    if len(samples) < least:
        why = f", whose R2 is only {fit.fit.r2:.3f}," if fit.poor else ""
        raise LREError(
            f"the fit{why} has {len(samples)} samples, and a bound at confidence {confidence:g} "
            f"needs {least}; fit more with `spear lre --samples`, choose a lower confidence, or "
            "'off'"
        )
    ways = [fitted_to(fit, samples[:i] + samples[i + 1 :]) for i in range(len(samples))]
    above = np.array(
        [
            sample.finetuned - way.unclipped(sample.scored, sample.layers)
            for sample, way in zip(samples, ways, strict=True)
        ]
    )
    highest = max(samples, key=lambda sample: sample.scored)
    draft = BoundedEstimator(fit, confidence, fit.poor, math.inf, ways, above, used)
    ends = (draft.predict(0.0, (0.0,) * len(highest.layers)), draft.predict(1.0, highest.layers))
    largest = max(1.0, fit.max_prediction, *ends)
    return BoundedEstimator(fit, confidence, fit.poor, largest, ways, above, used)
