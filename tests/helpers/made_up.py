"""Comparisons whose every result is made up, so that what follows from them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spear_gym.agents.compare.cells import CompareSettings
from spear_gym.agents.compare.run import Comparison

Results = Mapping[str, Mapping[tuple[str, float], Sequence[tuple[float, float]]]]
"""By agent and task: test accuracy, and SynOps over the target, of each run."""


def comparison(results: Results, seeds: int = 10) -> Comparison:
    """A comparison with these results, all networks of one data set."""
    tasks = sorted({task for found in results.values() for task in found})
    workloads = tuple(sorted({workload for workload, _ in tasks}))
    records = tuple(
        record(agent, task, seed, *run)
        for agent, found in results.items()
        for task, runs in found.items()
        for seed, run in enumerate(runs)
    )
    return Comparison(
        CompareSettings(
            workloads, tuple(results), tuple(sorted({t for _, t in tasks})), seeds=seeds, budget=2
        ),
        {"python": "3.11"},
        {name: {"data": "D"} for name in workloads},
        records,
        {},
    )


def record(
    agent: str, task: tuple[str, float], seed: int, accuracy: float, load: float
) -> dict[str, Any]:
    """One run: it tried two plans and fine-tuned the second, which was predicted at 0.9."""
    workload, target = task
    return {
        "cell": {"workload": workload, "agent": agent, "target": target, "seed": seed},
        "paid": 2,
        "charged": 0,
        "charged_for": "",
        "episodes": 2,
        "simulator_runs": 2,
        "updated": True,
        "seconds": 2.0,
        "search_seconds": 1.0,
        "spent": [1, 2],
        "plans": [[9, 9], [4, seed]],
        "accuracy": [0.9, accuracy - 0.1],
        "predicted_fraction": [2 * target, 0.9 * target],
        "lre_samples": 0,
        "groups": ["conv1", "conv2"],
        "channels": [16, 16],
        "plan": [4, seed],
        "test_accuracy": accuracy,
        "test_fraction": load * target,
        "kept": load <= 1.0,
    }
