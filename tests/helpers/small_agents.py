"""Settings under which every agent learns within sixteen evaluations."""

from __future__ import annotations

from typing import Any

OFF_POLICY: dict[str, Any] = {"learning_starts": 6, "batch_size": 8, "buffer_size": 500}
ON_POLICY: dict[str, Any] = {"n_steps": 6, "batch_size": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"{name}-default": OFF_POLICY for name in ("ddpg", "td3", "sac", "tqc", "crossq")},
    **{f"{name}-default": ON_POLICY for name in ("ppo", "trpo", "recurrent-ppo")},
    "spear-ddpg": {"hidden": 32, "gradient_steps": 1, "batch_size": 16},
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 8},
    "nsga-ii": {"population_size": 4},
    "nsga-ii-2": {"population_size": 4},
    "evolution": {"population": 4, "sample": 2},
}
