"""spear-gym: pruning spiking neural networks to a SynOps target, as a Gymnasium environment.

Importing the package registers ``SpearPrune-v0`` and one id per shipped workload.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spear_gym.envs_registry import register_envs

if TYPE_CHECKING:
    from spear_gym.env import SpearPruneEnv
    from spear_gym.evaluation import Evaluation, PlanEvaluator
    from spear_gym.lre import LinearEstimator
    from spear_gym.lre.fit import fit_lre
    from spear_gym.pruning.keeping import load_network, save_network
    from spear_gym.pruning.plan import Plan
    from spear_gym.pruning.resizing import resize_to_fit
    from spear_gym.reward import TargetAwareReward
    from spear_gym.training import Recipe
    from spear_gym.workload import Workload, load_workload

_LAZY = {
    "SpearPruneEnv": "spear_gym.env",
    "Evaluation": "spear_gym.evaluation",
    "PlanEvaluator": "spear_gym.evaluation",
    "LinearEstimator": "spear_gym.lre",
    "Plan": "spear_gym.pruning.plan",
    "TargetAwareReward": "spear_gym.reward",
    "Recipe": "spear_gym.training",
    "Workload": "spear_gym.workload",
    "fit_lre": "spear_gym.lre.fit",
    "load_network": "spear_gym.pruning.keeping",
    "load_workload": "spear_gym.workload",
    "resize_to_fit": "spear_gym.pruning.resizing",
    "save_network": "spear_gym.pruning.keeping",
}

__all__ = [
    "Evaluation",
    "LinearEstimator",
    "Plan",
    "PlanEvaluator",
    "Recipe",
    "SpearPruneEnv",
    "TargetAwareReward",
    "Workload",
    "fit_lre",
    "load_network",
    "load_workload",
    "register_envs",
    "resize_to_fit",
    "save_network",
]

register_envs()


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that ``import spear_gym`` stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'spear_gym' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)
