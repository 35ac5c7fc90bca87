"""SynOps after fine-tuning, predicted from the SynOps before it.

SPEAR's linear regression (LRE) comes first:

    p = W * s + b

s is a plan's scored SynOps fraction, p its SynOps fraction after fine-tuning, both over those of
the unpruned network on the search split. W and b come from ordinary least squares on random plans
that were really fine-tuned with the recipe of the final fine-tune. Predictions are clipped to
[0, max(1, W + b)]. :mod:`spear_gym.lre.families` holds the other estimators.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spear_gym.boundary.fields import Fields
from spear_gym.boundary.files import FileError, raised_as, read_json

from .families import FAMILIES, Features, Regression, check_family
from .samples import LREError, Sample

LRE_FORMAT = "spear-gym lre 1"

FEWEST_SAMPLES = 3
"""A line with a residual needs as many; no estimator is fitted to fewer."""

MOST_SAMPLES = 10_000
"""Samples in a file; each is a fine-tune."""

STEEPEST = 1e9
"""Largest W and b, either way: both are about 1."""

LOW_R2 = 0.9
"""Below this a fit is called poor: reports warn, and bounds on its predictions are widened."""


class SynopsEstimator(Protocol):
    """The interface of SynOps estimators."""

    @property
    def max_prediction(self) -> float:
        """The largest fraction it predicts."""
        ...

    def predict(self, scored: float, layers: Sequence[float] = ()) -> float:
        """SynOps fraction after fine-tuning.

        Args:
            scored: the SynOps fraction before it.
            layers: the same by layer; not all estimators look at it.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoEstimator:
    """No prediction: fine-tuning is taken to change nothing (the control)."""

    max_prediction: float = 1.0

    def predict(self, scored: float, layers: Sequence[float] = ()) -> float:  # noqa: ARG002
        """The scored fraction itself, clipped to [0, 1]."""
        return min(max(scored, 0.0), self.max_prediction)


@dataclass(frozen=True, slots=True)
class Quality:
    """How well an estimator fits some samples.

    Attributes:
        r2: coefficient of determination.
        mean_absolute_error: of the fraction.
        residual_std: standard deviation of the residuals, of the fraction.
        samples: how many.
    """

    r2: float
    mean_absolute_error: float
    residual_std: float
    samples: int


class FittedEstimator(ABC):
    """What all fits share.

    Attributes:
        family: name of the kind of estimator, in :data:`spear_gym.lre.families.FAMILIES`.
        fingerprint: what the fit belongs to; using it under another is an error.
        fit: quality on the samples it was fitted to.
        held_out: quality on samples it was not fitted to, if there were any.
        samples: all samples, those fitted to first.
        failed: fine-tunes that failed and were left out.
    """

    family: str
    fingerprint: dict[str, str]
    fit: Quality
    held_out: Quality | None
    samples: tuple[Sample, ...]
    failed: int

    @property
    def fitted(self) -> tuple[Sample, ...]:
        """The samples that it was fitted to."""
        return self.samples[: self.fit.samples]

    @property
    def poor(self) -> bool:
        """Whether it fits worse than :data:`LOW_R2`, or its R^2 is undefined."""
        return not self.fit.r2 >= LOW_R2

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest fraction after fine-tuning among the samples fitted to."""
        found = [sample.finetuned for sample in self.fitted]
        return (min(found), max(found)) if found else None

    @property
    @abstractmethod
    def max_prediction(self) -> float:
        """The largest fraction it predicts."""

    @abstractmethod
    def unclipped(self, scored: float, layers: Sequence[float] = ()) -> float:
        """What the model says, in [0, p_max] or not: what residuals are taken from."""

    def predict(self, scored: float, layers: Sequence[float] = ()) -> float:
        """SynOps fraction after fine-tuning, clipped to [0, p_max]; see :class:`SynopsEstimator`.

        Raises:
            LREError: when the family looks at layers and none are given.
        """
        return min(max(self.unclipped(scored, layers), 0.0), self.max_prediction)

    def check(self, fingerprint: dict[str, str]) -> None:
        """Refuses to be used under another fingerprint.

        Raises:
            LREError: naming what differs.
        """
        keys = sorted(set(self.fingerprint) | set(fingerprint))
        differing = [k for k in keys if self.fingerprint.get(k) != fingerprint.get(k)]
        if differing:
            shown = "; ".join(
                f"{k}: fitted under {_short(self.fingerprint.get(k))}, used under "
                f"{_short(fingerprint.get(k))}"
                for k in differing
            )
            raise LREError(
                f"this LRE fit belongs to something else ({shown}); fit it again with "
                "`spear lre`, or choose no prediction with lre='none'"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Of models only the samples are written; reading fits them again."""
        return {
            "format": LRE_FORMAT,
            "estimator": self.family,
            "fingerprint": self.fingerprint,
            "fit": asdict(self.fit),
            "held_out": None if self.held_out is None else asdict(self.held_out),
            "failed": self.failed,
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True)
class LinearEstimator(FittedEstimator):
    """SPEAR's LRE.

    Attributes:
        weight: W.
        intercept: b.
        fingerprint: see :class:`FittedEstimator`, as the others.
    """

    weight: float
    intercept: float
    fingerprint: dict[str, str]
    fit: Quality
    held_out: Quality | None = None
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    failed: int = 0
    family = "linear"

    @property
    def max_prediction(self) -> float:
        """p_max = max(1, W + b)."""
        return max(1.0, self.weight + self.intercept)

    def unclipped(self, scored: float, layers: Sequence[float] = ()) -> float:  # noqa: ARG002
        """W * scored + b."""
        return self.weight * scored + self.intercept

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return super().to_json() | {"weight": self.weight, "intercept": self.intercept}


@dataclass(frozen=True)
class ModelEstimator(FittedEstimator):
    """An estimator of another family than the line.

    Attributes:
        family: its name.
        regression: the fitted model.
        fingerprint: see :class:`FittedEstimator`, as the others.
    """

    family: str
    regression: Regression = field(repr=False, compare=False)
    fingerprint: dict[str, str]
    fit: Quality
    held_out: Quality | None = None
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    failed: int = 0

    @property
    def max_prediction(self) -> float:
        """The larger of 1 and the largest fraction after fine-tuning among the samples."""
        return max(1.0, *(sample.finetuned for sample in self.fitted))

    def unclipped(self, scored: float, layers: Sequence[float] = ()) -> float:
        """The model's prediction.

        Raises:
            LREError: when the family looks at layers and none are given.
        """
        if FAMILIES[self.family].layered and not layers:
            raise LREError(
                f"estimator '{self.family}' needs the SynOps of every layer, which are not known "
                "here; use a fit of the estimator 'linear'"
            )
        return float(self.regression(np.array([[scored, *layers]]))[0])


def read_estimator(data: Any) -> FittedEstimator:
    """Reads the form of :meth:`FittedEstimator.to_json`.

    Raises:
        LREError: when it is not such a form.
    """
    if not isinstance(data, dict) or data.get("format") != LRE_FORMAT:
        raise LREError(f"this is no LRE fit: its 'format' is not '{LRE_FORMAT}'")
    with raised_as(LREError):
        return _read_estimator(Fields(data, "the LRE file"))


def _read_estimator(given: Fields) -> FittedEstimator:
    family = given.text("estimator") if "estimator" in given else "linear"
    check_family(family)
    rows = given.items("samples")
    if len(rows) > MOST_SAMPLES:
        raise FileError(f"the LRE file holds {len(rows):,} samples; it may hold {MOST_SAMPLES:,}")
    samples = tuple(map(Sample.from_json, rows))
    fit = _read_quality(given.mapping("fit"))
    held_out = None
    if "held_out" in given and given.value("held_out") is not None:
        held_out = _read_quality(given.mapping("held_out"))
    failed = given.whole("failed", 0) if "failed" in given else 0
    shared = (given.mapping("fingerprint").text_of_each(), fit, held_out, samples, failed)
    if family == "linear":
        weight, intercept = (given.number(n, -STEEPEST, STEEPEST) for n in ("weight", "intercept"))
        return LinearEstimator(weight, intercept, *shared)
    fitted = samples[: fit.samples]
    if any(sample.failed for sample in fitted):
        raise FileError("the LRE file is damaged: it is fitted to fine-tunes that failed")
    if len(fitted) < fewest_samples(family, fitted):
        raise FileError(f"the LRE file is damaged: {len(fitted)} samples are too few")
    return ModelEstimator(family, FAMILIES[family].fit(*_arrays(fitted)), *shared)


def _read_quality(given: Fields) -> Quality:
    given.only(Quality.__slots__)
    r2 = given.value("r2")
    undefined = r2 is None or (isinstance(r2, float) and math.isnan(r2))
    return Quality(
        math.nan if undefined else given.number("r2", high=1.0),
        given.number("mean_absolute_error", 0.0),
        given.number("residual_std", 0.0),
        given.whole("samples", 0),
    )


def load_estimator(path: Path) -> FittedEstimator:
    """Reads a fit from a JSON file; raises :class:`LREError` when it is not one."""
    try:
        with raised_as(LREError):
            data = read_json(path, undefined=True)  # R^2 is, where all samples are alike
    except LREError as error:
        raise LREError(f"cannot read an LRE fit from '{path}': {error}") from error
    try:
        return read_estimator(data)
    except LREError as error:
        raise LREError(f"'{path}': {error}") from error


def fit_estimator(
    family: str,
    samples: Sequence[Sample],
    fingerprint: dict[str, str],
    held_out: Sequence[Sample] = (),
) -> FittedEstimator:
    """Fits an estimator to samples; failed ones are counted and left out.

    Args:
        family: a name in :data:`FAMILIES`.
        samples: to fit to.
        fingerprint: what they belong to.
        held_out: samples to judge the fit on.

    Raises:
        LREError: for an unknown family, with near matches; with too few samples, values that are
            not finite, or all at one SynOps.
    """
    check_family(family)
    good, rest = _succeeded(samples), _succeeded(held_out)
    failed = len(samples) + len(held_out) - len(good) - len(rest)
    least = fewest_samples(family, good)
    if len(good) < least:
        also = f" ({failed} more failed)" if failed else ""
        raise LREError(
            f"{len(good)} samples given{also}; the estimator '{family}' needs at least {least}"
        )
    x, y = _arrays(good)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise LREError("a sample's SynOps are not finite; mark failed fine-tunes as failed")
    if np.ptp(x[:, 0]) < 1e-9:
        raise LREError(f"all samples have the same scored SynOps fraction {x[0, 0]:.4f}")
    if family == "linear":
        weight, intercept = _least_squares(x[:, 0], y)

        def line(features: Features) -> Features:
            return weight * features[:, 0] + intercept

        qualities = _qualities(line, good, rest, parameters=2)
        return LinearEstimator(
            weight, intercept, dict(fingerprint), *qualities, (*good, *rest), failed
        )
    regression = FAMILIES[family].fit(x, y)
    parameters = FAMILIES[family].parameters(x.shape[1] - 1)
    qualities = _qualities(regression, good, rest, parameters=parameters)
    return ModelEstimator(family, regression, dict(fingerprint), *qualities, (*good, *rest), failed)


def fewest_samples(family: str, samples: Sequence[Sample]) -> int:
    """Fewest samples like these that an estimator of this family is fitted to."""
    layers = len(samples[0].layers) if samples else 0
    return max(FEWEST_SAMPLES, FAMILIES[family].fewest(layers))


def fit_line(
    samples: Sequence[Sample], fingerprint: dict[str, str], held_out: Sequence[Sample] = ()
) -> LinearEstimator:
    """SPEAR's LRE: ordinary least squares of the fine-tuned fraction on the scored one.

    Raises:
        LREError: see :func:`fit_estimator`.
    """
    found = fit_estimator("linear", samples, fingerprint, held_out)
    assert isinstance(found, LinearEstimator)
    return found


def fitted_to(fit: FittedEstimator, samples: Sequence[Sample]) -> FittedEstimator:
    """The same kind of estimator, fitted to other samples.

    Raises:
        LREError: see :func:`fit_estimator`.
    """
    return fit_estimator(fit.family, samples, fit.fingerprint)


def quality(
    predict: Callable[[Features], Features], samples: Sequence[Sample], *, parameters: int = 0
) -> Quality:
    """R^2, mean absolute error and residual spread of a prediction on samples.

    Args:
        predict: fractions after fine-tuning from features ``(samples, 1 + layers)``.
        samples: to judge it on.
        parameters: fitted to these samples; taken off when the spread is averaged.
    """
    x, y = _arrays(samples)
    residuals = y - predict(x)
    total = float(((y - y.mean()) ** 2).sum())
    squared = float((residuals**2).sum())
    return Quality(
        r2=1.0 - squared / total if total > 0 else math.nan,
        mean_absolute_error=float(np.abs(residuals).mean()),
        residual_std=math.sqrt(squared / max(1, len(samples) - parameters)),
        samples=len(samples),
    )


def quality_of(estimator: SynopsEstimator, samples: Sequence[Sample]) -> Quality:
    """How well an estimator, clipping included, predicts samples that it was not fitted to."""

    def predict(x: Features) -> Features:
        return np.array([estimator.predict(row[0], row[1:].tolist()) for row in x])

    return quality(predict, samples)


def _qualities(
    predict: Callable[[Features], Features],
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    *,
    parameters: int,
) -> tuple[Quality, Quality | None]:
    fit = quality(predict, samples, parameters=parameters)
    return fit, quality(predict, held_out) if len(held_out) >= 2 else None


def _succeeded(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if not sample.failed)


def _arrays(samples: Sequence[Sample]) -> tuple[Features, Features]:
    """Features ``(samples, 1 + layers)``, the total first, and fractions after fine-tuning."""
    layers = min((len(sample.layers) for sample in samples), default=0)
    x = np.array([(s.scored, *s.layers[:layers]) for s in samples], np.float64)
    return x.reshape(len(samples), 1 + layers), np.array([s.finetuned for s in samples])


def _least_squares(x: Features, y: Features) -> tuple[float, float]:
    """Slope and intercept of a line."""
    centred = x - x.mean()
    weight = float(centred @ y / (centred @ centred))
    return weight, float(y.mean() - weight * x.mean())


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:12]
