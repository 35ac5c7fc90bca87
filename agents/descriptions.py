"""What every agent is, in a line: the text of `spear agents`."""

from __future__ import annotations

from .algorithms import ALGORITHMS

DESCRIPTIONS = {
    "spear-ddpg": "DDPG after SPEAR and AMC, reconstructed and tuned here; not the paper's",
    "random": "uniform prune ratios, the control",
    "uniform": "rule: one ratio for all layers",
    "global-l1": "rule: one threshold on the L1 norms of all filters",
    "network-slimming": "rule: counts by BatchNorm's gammas, L1 inside layers; not the method",
    "sca": "rule: counts by membrane potentials, L1 inside layers; no regrowth",
    "gates": "channel gates trained under a SynOps penalty; reconstructed, no one paper followed",
    "qmc": "quasi-random ratios (Optuna)",
    "tpe": "tree-structured Parzen estimator (Optuna)",
    "gp": "Gaussian process (Optuna)",
    "cma-es": "covariance matrix adaptation (Optuna)",
    "nsga-ii": "genetic algorithm (Optuna)",
    "nsga-ii-2": "the same with accuracy and SynOps as two objectives",
    "evolution": "regularised evolution (Real et al. 2019); mutation and sizes reconstructed",
}
"""By name; algorithms of Stable-Baselines3 and sb3-contrib are described by :func:`description`."""

LIBRARIES = {"stable_baselines3": "Stable-Baselines3", "sb3_contrib": "sb3-contrib"}


def description(name: str) -> str:
    """A line about an agent of the package."""
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name]
    algorithm = ALGORITHMS[name.removesuffix("-default")]
    settings = "its library's" if name.endswith("-default") else "tuned on digits at 0.3"
    return f"{algorithm.cls} of {LIBRARIES[algorithm.module]}, settings {settings}"
