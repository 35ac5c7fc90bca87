"""What is read off the record of one cell, see ``cells.record_of``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .curves import Anytime

Record = Mapping[str, Any]
Task = tuple[str, float]
"""A network and a target."""


def anytime(record: Record) -> Anytime:
    """Best score of a plan predicted to keep the target, against spent evaluations."""
    best: list[float | None] = []
    reached: float | None = None
    target = record["cell"]["target"]
    for accuracy, predicted in zip(record["accuracy"], record["predicted_fraction"], strict=True):
        if predicted / target <= 1.0 and (reached is None or accuracy > reached):
            reached = accuracy
        best.append(reached)
    return Anytime(tuple(record["spent"]), tuple(best))


def task_of(record: Record) -> Task:
    """The network and the target of a cell."""
    return (record["cell"]["workload"], record["cell"]["target"])


def accuracy_of(record: Record) -> float:
    """Accuracy on test after fine-tuning."""
    return float(record["test_accuracy"])


def accuracy_or_lost(record: Record) -> float:
    """The same, -1 for a run over target."""
    return float(record["test_accuracy"]) if record["kept"] else -1.0


def best_score(record: Record) -> float:
    """Best score of a plan predicted to keep the target, 0 without one."""
    best = anytime(record).best
    return (best[-1] if best else None) or 0.0


def load_of(record: Record) -> float:
    """SynOps on test over the target."""
    return float(record["test_fraction"] / record["cell"]["target"])


def distance_of(record: Record) -> float:
    """How far the SynOps on test are from the target, as a fraction of the unpruned network's."""
    return float(abs(record["test_fraction"] - record["cell"]["target"]))


def over_predicted(record: Record) -> float:
    """Measured over predicted SynOps of the fine-tuned plan; the prediction is for search."""
    chosen = record["plans"].index(record["plan"])
    return float(record["test_fraction"] / record["predicted_fraction"][chosen])
