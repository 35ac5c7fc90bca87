"""LRE: SynOps after fine-tuning, predicted from the SynOps before it.

    p = W * s + b

s is a plan's scored SynOps fraction, p its SynOps fraction after fine-tuning, both over those of
the unpruned network on the search split. W and b come from ordinary least squares on random plans
that were really fine-tuned with the recipe of the final fine-tune (SPEAR's linear regression).
Predictions are clipped to [0, max(1, W + b)].
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LRE_FORMAT = "spear-gym lre 1"


class LREError(ValueError):
    """An LRE fit is impossible, damaged, or belongs to something else."""


class SynopsEstimator(Protocol):
    """The interface of SynOps estimators."""

    @property
    def max_prediction(self) -> float:
        """The largest fraction it predicts."""
        ...

    def predict(self, scored: float) -> float:
        """SynOps fraction after fine-tuning from the scored one."""
        ...


@dataclass(frozen=True, slots=True)
class NoEstimator:
    """No prediction: fine-tuning is taken to change nothing (the control)."""

    max_prediction: float = 1.0

    def predict(self, scored: float) -> float:
        """The scored fraction itself, clipped to [0, 1]."""
        return min(max(scored, 0.0), self.max_prediction)


@dataclass(frozen=True, slots=True)
class Sample:
    """One plan that was scored and really fine-tuned.

    Attributes:
        counts: channels kept per group.
        scored: SynOps fraction before fine-tuning.
        finetuned: SynOps fraction after it.
        accuracy: accuracy on search after it.
        seconds: time of the fine-tune.
    """

    counts: tuple[int, ...]
    scored: float
    finetuned: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a line fits some samples.

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


@dataclass(frozen=True)
class LinearEstimator:
    """SPEAR's LRE.

    Attributes:
        weight: W.
        intercept: b.
        fingerprint: what the fit belongs to; using it under another is an error.
        fit: quality on the samples it was fitted to.
        held_out: quality on samples it was not fitted to, if there were any.
        samples: all samples, those fitted to first.
    """

    weight: float
    intercept: float
    fingerprint: dict[str, str]
    fit: Quality
    held_out: Quality | None = None
    samples: tuple[Sample, ...] = field(default=(), repr=False)

    @property
    def max_prediction(self) -> float:
        """p_max = max(1, W + b)."""
        return max(1.0, self.weight + self.intercept)

    def predict(self, scored: float) -> float:
        """W * scored + b, clipped to [0, p_max]."""
        return min(max(self.weight * scored + self.intercept, 0.0), self.max_prediction)

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
        """Plain JSON values."""
        return {"format": LRE_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> LinearEstimator:
        """Reads :meth:`to_json`'s form.

        Raises:
            LREError: when it is not such a form.
        """
        if not isinstance(data, dict) or data.get("format") != LRE_FORMAT:
            raise LREError(f"this is no LRE fit: its 'format' is not '{LRE_FORMAT}'")
        try:
            weight, intercept = float(data["weight"]), float(data["intercept"])
            samples = tuple(
                Sample(tuple(int(c) for c in s.pop("counts")), **s)
                for s in (dict(s) for s in data["samples"])
            )
            held_out = data.get("held_out")
            estimator = cls(
                weight,
                intercept,
                {str(k): str(v) for k, v in data["fingerprint"].items()},
                Quality(**data["fit"]),
                None if held_out is None else Quality(**held_out),
                samples,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LREError(f"the LRE file is damaged: {error!r}") from error
        if not (math.isfinite(weight) and math.isfinite(intercept)):
            raise LREError(f"the LRE file holds W = {weight}, b = {intercept}; both must be finite")
        return estimator

    @classmethod
    def load(cls, path: Path) -> LinearEstimator:
        """Reads a fit from a JSON file; raises :class:`LREError` when it is not one."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise LREError(f"cannot read an LRE fit from '{path}': {error}") from error
        except LREError as error:
            raise LREError(f"'{path}': {error}") from error


def fit_line(
    samples: Sequence[Sample], fingerprint: dict[str, str], held_out: Sequence[Sample] = ()
) -> LinearEstimator:
    """Ordinary least squares of the fine-tuned fraction on the scored one.

    Raises:
        LREError: with fewer than 3 samples, values that are not finite, or all at one SynOps.
    """
    if len(samples) < 3:
        raise LREError(f"{len(samples)} samples given; a line with a residual needs at least 3")
    x = np.array([sample.scored for sample in samples])
    y = np.array([sample.finetuned for sample in samples])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise LREError("a sample's SynOps are not finite; leave failed fine-tunes out")
    if np.ptp(x) < 1e-9:
        raise LREError(f"all samples have the same scored SynOps fraction {x[0]:.4f}")
    centred = x - x.mean()
    weight = float(centred @ y / (centred @ centred))
    line = (weight, float(y.mean() - weight * x.mean()))
    return LinearEstimator(
        *line,
        dict(fingerprint),
        quality(line, samples, parameters=2),
        quality(line, held_out) if len(held_out) >= 2 else None,
        (*samples, *held_out),
    )


def quality(
    line: tuple[float, float], samples: Sequence[Sample], *, parameters: int = 0
) -> Quality:
    """R^2, mean absolute error and residual spread of a line on samples."""
    x = np.array([sample.scored for sample in samples])
    y = np.array([sample.finetuned for sample in samples])
    residuals = y - (line[0] * x + line[1])
    total = float(((y - y.mean()) ** 2).sum())
    squared = float((residuals**2).sum())
    return Quality(
        r2=1.0 - squared / total if total > 0 else math.nan,
        mean_absolute_error=float(np.abs(residuals).mean()),
        residual_std=math.sqrt(squared / max(1, len(samples) - parameters)),
        samples=len(samples),
    )


def _short(value: str | None) -> str:
    return "nothing" if value is None else value[:12]
