"""The kinds of estimators, from SPEAR's line to learned models.

Each maps features of scored plans to SynOps fractions after fine-tuning. A row of features is a
plan's SynOps fraction s before fine-tuning, followed by the same by layer, x_1 .. x_L:

    linear         p = W s + b                    SPEAR's LRE
    proportional   p = W s                        no intercept
    quadratic      p = a s^2 + W s + b
    per-layer      p = sum_l W_l x_l + b          one slope for each layer
    trees          gradient-boosted trees         Friedman 2001, scikit-learn's
    mlp            one hidden layer of 16         scikit-learn's, standardised inputs
    gp             Gaussian process               linear + squared exponential kernel, noise fitted

The last three look at s and all x_l. Models of scikit-learn are seeded, so that a fit read from
disk is the fit that was written: only the samples are kept, never a pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spear_gym.boundary.text import unknown

from .samples import LREError

Features = NDArray[np.float64]
Regression = Callable[[Features], Features]
"""Features ``(plans, 1 + layers)`` to fractions ``(plans,)``."""


@dataclass(frozen=True)
class Family:
    """A kind of estimator.

    Attributes:
        fit: fits it to features and fractions.
        parameters: how many it has on a network of so many layers; for learned models the fewest
            samples, less one, that they are fitted to.
        layered: whether it looks at layers.
    """

    fit: Callable[[Features, Features], Regression]
    parameters: Callable[[int], int]
    layered: bool = True

    def fewest(self, layers: int) -> int:
        """Fewest samples for a fit that is determined, with one to spare."""
        return self.parameters(layers) + 1


def _polynomial(*powers: int) -> Callable[[Features, Features], Regression]:
    """Ordinary least squares on powers of s."""

    def columns(x: Features) -> Features:
        return np.stack([x[:, 0] ** power for power in powers], axis=1)

    def fit(x: Features, y: Features) -> Regression:
        coefficients, *_ = np.linalg.lstsq(columns(x), y, rcond=None)
        return lambda new: columns(new) @ coefficients

    return fit


def _per_layer(x: Features, y: Features) -> Regression:
    """Ordinary least squares on the SynOps of every layer."""
    _check_layers(x)
    coefficients, *_ = np.linalg.lstsq(_with_ones(x), y, rcond=None)
    return lambda new: _with_ones(new) @ coefficients


def _with_ones(x: Features) -> Features:
    return np.column_stack([x[:, 1:], np.ones(len(x))])


def _check_layers(x: Features) -> None:
    if x.shape[1] < 2:
        raise LREError(
            "the samples do not say their SynOps by layer (fits made by an early version do not); "
            "fit again with `spear lre`, or use the estimator 'linear'"
        )


def _learned(make: Callable[[int], Any]) -> Callable[[Features, Features], Regression]:
    """A model of scikit-learn, made for a number of features."""

    def fit(x: Features, y: Features) -> Regression:
        _check_scikit_learn()
        from sklearn.exceptions import ConvergenceWarning

        _check_layers(x)
        model = make(x.shape[1])
        with warnings.catch_warnings():
            # An optimum at a bound, or not quite reached, is judged by the fit's quality.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)

        def predict(new: Features) -> Features:
            return np.asarray(model.predict(new), np.float64)

        return predict

    return fit


def _check_scikit_learn() -> None:
    if find_spec("sklearn") is None:
        raise LREError(
            "the estimators trees, mlp and gp need scikit-learn, which is not installed: "
            "pip install 'spear-gym[estimators]', or use the estimator 'linear'"
        )


def _trees(_: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        n_estimators=200, max_depth=2, learning_rate=0.05, subsample=0.8, random_state=0
    )


def _mlp(_: int) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPRegressor(
        hidden_layer_sizes=(16,), solver="lbfgs", alpha=0.1, max_iter=500, random_state=0
    )
    return TransformedTargetRegressor(
        make_pipeline(StandardScaler(), network), transformer=StandardScaler()
    )


def _gaussian_process(features: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    linear = ConstantKernel() * DotProduct()
    curved = ConstantKernel(0.01) * RBF(np.ones(features), (0.05, 100.0))
    kernel = linear + curved + WhiteKernel(1e-3, (1e-8, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


FAMILIES: dict[str, Family] = {
    "linear": Family(_polynomial(1, 0), lambda _: 2, layered=False),
    "proportional": Family(_polynomial(1), lambda _: 1, layered=False),
    "quadratic": Family(_polynomial(2, 1, 0), lambda _: 3, layered=False),
    "per-layer": Family(_per_layer, lambda layers: layers + 1),
    "trees": Family(_learned(_trees), lambda _: 9),
    "mlp": Family(_learned(_mlp), lambda _: 4),
    "gp": Family(_learned(_gaussian_process), lambda _: 4),
}
"""All of them, by name."""


def check_family(name: str) -> None:
    """Refuses an unknown name; raises :class:`LREError` with near matches."""
    if name not in FAMILIES:
        raise LREError(unknown("estimator", name, tuple(FAMILIES)))
