"""SynOps after fine-tuning, predicted: samples, estimators, intervals and bounds."""

from .conformal import BoundedEstimator, bounded, estimate_of, samples_needed
from .estimators import (
    FittedEstimator,
    LinearEstimator,
    NoEstimator,
    Quality,
    SynopsEstimator,
    fit_estimator,
    fit_line,
    load_estimator,
    quality,
    quality_of,
    read_estimator,
)
from .families import FAMILIES
from .intervals import LineIntervals
from .samples import LREError, Sample, SampleStore

__all__ = [
    "FAMILIES",
    "BoundedEstimator",
    "FittedEstimator",
    "LREError",
    "LineIntervals",
    "LinearEstimator",
    "NoEstimator",
    "Quality",
    "Sample",
    "SampleStore",
    "SynopsEstimator",
    "bounded",
    "estimate_of",
    "fit_estimator",
    "fit_line",
    "load_estimator",
    "quality",
    "quality_of",
    "read_estimator",
    "samples_needed",
]
