"""What samples tell about estimators: learning curves, extrapolation, bounds, and drift by layer.

All functions are given samples that were made before; nothing is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .conformal import bounded, samples_needed
from .estimators import NoEstimator, SynopsEstimator, fit_estimator, quality_of
from .families import FAMILIES
from .samples import LREError, Sample

Array = NDArray[np.float64]

SAMPLE_SIZES = (5, 10, 20, 40, 80, 160, 320, 500)
REPEATS = 20


@dataclass(frozen=True, slots=True)
class FitPoint:
    """Error of an estimator fitted to so many samples.

    Attributes:
        family: the estimator, ``"none"`` for no prediction.
        samples: fitted to.
        error: mean absolute error on held-out samples, median over draws.
        low: 10th percentile over draws.
        high: 90th percentile over draws.
    """

    family: str
    samples: int
    error: float
    low: float
    high: float


def learning_curve(
    pool: Sequence[Sample],
    held_out: Sequence[Sample],
    families: Sequence[str] = tuple(FAMILIES),
    sizes: Sequence[int] = SAMPLE_SIZES,
    repeats: int = REPEATS,
    seed: int = 0,
) -> list[FitPoint]:
    """Held-out error against the number of samples.

    Args:
        pool: subsets are drawn from it at random, the whole pool once.
        held_out: samples that the error is measured on.
        families: estimators; a size that is too small for one is left out.
        sizes: numbers of samples; those beyond the pool are left out.
        repeats: draws for each size.
        seed: of the draws.
    """
    good = _good(pool)
    error = quality_of(NoEstimator(), _good(held_out)).mean_absolute_error
    points = [FitPoint("none", 0, error, error, error)]
    for size in (size for size in sizes if size <= len(good)):
        draws = list(_draws(good, size, repeats, np.random.default_rng([seed, size])))
        for family in families:
            errors = [_error(family, draw, held_out) for draw in draws]
            found = [error for error in errors if error is not None]
            if found:
                low, middle, high = np.percentile(found, [10, 50, 90]).tolist()
                points.append(FitPoint(family, size, middle, low, high))
    return points


def _draws(
    good: Sequence[Sample], size: int, repeats: int, rng: np.random.Generator
) -> Iterator[list[Sample]]:
    for _ in range(repeats if size < len(good) else 1):
        yield [good[i] for i in rng.permutation(len(good))[:size]]


def _error(family: str, samples: Sequence[Sample], held_out: Sequence[Sample]) -> float | None:
    """Mean absolute error; ``None`` when there are too few samples for the estimator."""
    try:
        fit = fit_estimator(family, samples, {})
    except LREError:
        return None
    return quality_of(fit, _good(held_out)).mean_absolute_error


@dataclass(frozen=True, slots=True)
class Transfer:
    """An estimator fitted here and judged there.

    Attributes:
        family: the estimator, ``"none"`` for no prediction.
        fitted: what it was fitted to, in words.
        judged: what it was judged on, in words.
        samples: fitted to.
        error: mean absolute error.
        bias: mean of the measured minus the predicted fraction: positive when it promises too much.
    """

    family: str
    fitted: str
    judged: str
    samples: int
    error: float
    bias: float


def transfers(
    fitted: tuple[str, Sequence[Sample]],
    judged: tuple[str, Sequence[Sample]],
    families: Sequence[str] = tuple(FAMILIES),
) -> list[Transfer]:
    """Every estimator fitted to one set of samples and judged on another.

    Args:
        fitted: name and samples to fit to.
        judged: name and samples to judge on.
        families: estimators; those that look at layers are left out when the layers differ.
    """
    here, there = _good(fitted[1]), _good(judged[1])
    rows = [_transfer("none", NoEstimator(), fitted[0], judged[0], 0, there)]
    for family in families:
        if FAMILIES[family].layered and len(here[0].layers) != len(there[0].layers):
            continue
        try:
            fit = fit_estimator(family, here, {})
        except LREError:
            continue
        rows.append(_transfer(family, fit, fitted[0], judged[0], len(here), there))
    return rows


def _transfer(
    family: str,
    estimator: SynopsEstimator,
    fitted: str,
    judged: str,
    samples: int,
    there: Sequence[Sample],
) -> Transfer:
    off = np.array([s.finetuned - estimator.predict(s.scored, s.layers) for s in there])
    return Transfer(family, fitted, judged, samples, float(np.abs(off).mean()), float(off.mean()))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often a bound held.

    Attributes:
        confidence: asked for.
        samples: that the bound was made from.
        trials: bounds looked at.
        held: of them at or above the measured fraction.
        margin: mean of the bound minus the prediction.
    """

    confidence: float
    samples: int
    trials: int
    held: int
    margin: float

    @property
    def share(self) -> float:
        """Share of bounds that held."""
        return self.held / self.trials if self.trials else math.nan


def coverage(
    pool: Sequence[Sample],
    held_out: Sequence[Sample],
    *,
    confidence: float = 0.95,
    sizes: Sequence[int] = (19, 40),
    repeats: int = REPEATS,
    seed: int = 0,
) -> list[Coverage]:
    """How often the line's upper bound held on samples that it was not made from.

    Args:
        pool: subsets are drawn from it at random.
        held_out: samples that bounds are judged on.
        confidence: of the bounds.
        sizes: numbers of samples; those that are too small or beyond the pool are left out.
        repeats: draws for each size.
        seed: of the draws.
    """
    good, judged = _good(pool), _good(held_out)
    rows = []
    for size in sizes:
        if not samples_needed(confidence) <= size <= len(good):
            continue
        held, margins, trials = 0, [], 0
        for draw in _draws(good, size, repeats, np.random.default_rng([seed, size])):
            fit = fit_estimator("linear", draw, {})
            try:
                bound = bounded(fit, confidence)
            except LREError:
                continue  # fits so poorly that it needs more samples
            for sample in judged:
                above = bound.predict(sample.scored, sample.layers)
                held += sample.finetuned <= above
                margins.append(above - fit.predict(sample.scored, sample.layers))
                trials += 1
        rows.append(Coverage(confidence, size, trials, held, float(np.mean(margins or [math.nan]))))
    return rows


# ------------------------------------------------------------------ why it is linear


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """How a layer's SynOps move in fine-tuning.

    A plan fixes the synapses, so a layer's SynOps change only as its inputs' firing does: by the
    factor r_l = SynOps after / SynOps before. The whole changes by sum_l (r_l - 1) x_l, x_l being
    the layer's SynOps before over the unpruned total.

    Attributes:
        layer: its index, in execution order.
        share: mean of x_l over the plan's s: how much of the SynOps are the layer's.
        share_spread: standard deviation of that.
        factor: mean of r_l.
        factor_spread: standard deviation of r_l.
        trend: Spearman's correlation of r_l with s.
        contribution: mean of (r_l - 1) x_l: what the layer adds to the drift.
    """

    layer: int
    share: float
    share_spread: float
    factor: float
    factor_spread: float
    trend: float
    contribution: float


def layer_drift(samples: Sequence[Sample]) -> list[LayerDrift]:
    """The drift taken apart by layer; layers without SynOps (analog ones) are left out."""
    from scipy.stats import spearmanr

    good = [sample for sample in _good(samples) if sample.layers and sample.finetuned_layers]
    if not good:
        raise LREError("the samples do not say their SynOps by layer; fit again with `spear lre`")
    scored = np.array([sample.scored for sample in good])
    before = np.array([sample.layers for sample in good])
    after = np.array([sample.finetuned_layers for sample in good])
    rows = []
    for layer in range(before.shape[1]):
        active = before[:, layer] > 0
        if not active.any():
            continue
        x, y, s = before[active, layer], after[active, layer], scored[active]
        factor, share = y / x, x / s
        trend = float(spearmanr(s, factor).statistic) if np.ptp(factor) > 0 else 0.0
        rows.append(
            LayerDrift(
                layer,
                float(share.mean()),
                float(share.std()),
                float(factor.mean()),
                float(factor.std()),
                trend,
                float((y - x).mean()),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Linearity:
    """Whether a line is enough.

    Attributes:
        samples: looked at.
        weight: W.
        intercept: b.
        r2: of the line.
        spread: residual standard deviation.
        curvature: change of SynOps at the middle of the range that a quadratic term adds.
        p_value: of the F-test of that term; small when the relation is curved.
        mean_drift: mean of after minus before.
    """

    samples: int
    weight: float
    intercept: float
    r2: float
    spread: float
    curvature: float
    p_value: float
    mean_drift: float


def linearity(samples: Sequence[Sample]) -> Linearity:
    """Tests the line against a parabola.

    Raises:
        LREError: with fewer than 5 samples.
    """
    from scipy.stats import f as fisher

    good = _good(samples)
    if len(good) < 5:
        raise LREError(f"{len(good)} samples given; a test of linearity needs at least 5")
    line = fit_estimator("linear", good, {})
    x = np.array([sample.scored for sample in good])
    y = np.array([sample.finetuned for sample in good])
    powers = np.stack([x**2, x, np.ones_like(x)], axis=1)
    coefficients, *_ = np.linalg.lstsq(powers, y)
    straight, *_ = np.linalg.lstsq(powers[:, 1:], y)
    curved = float(((y - powers @ coefficients) ** 2).sum())
    flat = float(((y - powers[:, 1:] @ straight) ** 2).sum())
    freedom = len(good) - 3
    ratio = (flat - curved) / max(curved / freedom, 1e-300)
    low, high = float(x.min()), float(x.max())
    return Linearity(
        len(good),
        float(straight[0]),
        float(straight[1]),
        line.fit.r2,
        line.fit.residual_std,
        # How far the parabola's middle lies from its chord.
        float(-coefficients[0] * ((high - low) / 2) ** 2),
        float(fisher.sf(ratio, 1, freedom)),
        float((y - x).mean()),
    )


def between(samples: Sequence[Sample], low: float, high: float) -> list[Sample]:
    """The samples whose fraction before fine-tuning lies in [low, high)."""
    return [sample for sample in samples if low <= sample.scored < high]


def _good(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if not sample.failed]
