"""From the records of cells to figures per agent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spear_gym.reward import make_reward

from .cells import CompareSettings
from .curves import Anytime, hypervolume
from .run import Comparison
from .statistics import (
    Interval,
    Scores,
    interquartile_mean_difference,
    interquartile_mean_interval,
    probability_of_improvement_interval,
    violation_interval,
)

Record = dict[str, Any]
Task = tuple[str, float]
"""A network and a target."""

LEVELS = (0.95, 0.99)
"""Shares of the best known score that a search is timed to."""


@dataclass(frozen=True)
class AgentFigures:
    """An agent on some tasks.

    Attributes:
        agent: its name.
        runs: cells that finished.
        kept_accuracy: the primary endpoint: test accuracy after fine-tuning among runs that keep
            the target; ``None`` when on some task no run keeps it.
        violations: share of runs over target after fine-tuning, on test.
        violators_accuracy: mean test accuracy of the runs over target, ``None`` without any.
        accuracy: test accuracy after fine-tuning of all runs, over target or not.
        score: best score before fine-tuning among plans predicted to keep the target, 0 without.
        reward: largest reward within the budget.
        area: mean height of the anytime curve of that score.
        distance: median distance of the SynOps on test from the target, fraction of unpruned.
        reached: for each of :data:`LEVELS`, the share of runs that reached it and the median
            evaluations over all runs, infinite when half of them never did.
        volume: hypervolume of the accuracy-SynOps front over targets, mean over networks and seeds.
        seconds: median wall time of a cell.
        search_seconds: median wall time of its search.
        paid: smallest and largest number of paid evaluations.
        charged: largest number of evaluations charged for other work.
        without_update: runs in which the agent never learned anything.
    """

    agent: str
    runs: int
    kept_accuracy: Interval | None
    violations: Interval
    violators_accuracy: float | None
    accuracy: Interval
    score: Interval
    reward: Interval
    area: Interval
    distance: float
    reached: tuple[tuple[float, float], ...]
    volume: float
    seconds: float
    search_seconds: float
    paid: tuple[int, int]
    charged: int
    without_update: int


class Analysis:
    """Figures of a comparison.

    Args:
        comparison: its records.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.settings: CompareSettings = comparison.settings
        self.records = comparison.records
        self.agents = [
            agent for agent in self.settings.agents if any(_agent(r) == agent for r in self.records)
        ]
        self.tasks: list[Task] = sorted({_task(r) for r in self.records})
        self.fingerprints = comparison.fingerprints
        self.best_known = {
            task: max((_best_score(r) for r in self.records if _task(r) == task), default=0.0)
            for task in self.tasks
        }
        self._shape = make_reward(self.settings.reward, self.settings.reward_settings)

    def of(self, agent: str, tasks: Sequence[Task] | None = None) -> list[Record]:
        """The records of an agent, on some tasks."""
        wanted = self.tasks if tasks is None else tasks
        return [r for r in self.records if _agent(r) == agent and _task(r) in wanted]

    def figures(self, agent: str, tasks: Sequence[Task] | None = None) -> AgentFigures | None:
        """An agent's figures on some tasks, ``None`` when no cell of them finished."""
        records = self.of(agent, tasks)
        if not records:
            return None
        over = [r["test_accuracy"] for r in records if not r["kept"]]
        paid = [int(r["paid"]) for r in records]
        return AgentFigures(
            agent=agent,
            runs=len(records),
            kept_accuracy=self.kept_accuracy(agent, tasks),
            violations=violation_interval(len(over), len(records)),
            violators_accuracy=float(np.mean(over)) if over else None,
            accuracy=self._iqm(records, _test_accuracy),
            score=self._iqm(records, _best_score),
            reward=self._iqm(records, self.best_reward),
            area=self._iqm(records, lambda r: anytime(r).area(self.settings.budget)),
            distance=_median(abs(r["test_fraction"] - r["cell"]["target"]) for r in records),
            reached=tuple(self._reached(records, level) for level in LEVELS),
            volume=self._volume(records),
            seconds=_median(r["seconds"] for r in records),
            search_seconds=_median(r["search_seconds"] for r in records),
            paid=(min(paid), max(paid)),
            charged=max(int(r["charged"]) for r in records),
            without_update=sum(not r["updated"] for r in records),
        )

    def kept_accuracy(self, agent: str, tasks: Sequence[Task] | None = None) -> Interval | None:
        """The primary endpoint of an agent on those of some tasks of which a cell finished.

        ``None`` when none did, or when on one of them no run keeps the target.
        """
        records = self.of(agent, tasks)
        kept = [r for r in records if r["kept"]]
        if not records or {_task(r) for r in kept} != {_task(r) for r in records}:
            return None
        return self._iqm(kept, _test_accuracy)

    def improvement(self, ours: str, other: str) -> Interval | None:
        """Probability that a run of ``ours`` beats one of ``other`` at the primary endpoint.

        A run that breaks the target counts as worse than every one that keeps it. ``None`` when
        the two have no task in common.
        """
        both = [t for t in self.tasks if self.of(ours, [t]) and self.of(other, [t])]
        if not both:
            return None
        x, y = (_strata(self.of(agent, both), _endpoint) for agent in (ours, other))
        return probability_of_improvement_interval(x, y)

    def data_sets(self) -> dict[str, list[Task]]:
        """The tasks by data set; one is named after the first network that was asked for on it."""
        names: dict[str, str] = {}
        found: dict[str, list[Task]] = {}
        for workload in self.settings.workloads:
            name = names.setdefault(self.fingerprints[workload]["data"], workload)
            found.setdefault(name, []).extend(t for t in self.tasks if t[0] == workload)
        return {name: tasks for name, tasks in found.items() if tasks}

    def contrast(
        self, ours: str, other: str, tasks: Sequence[Task], *, draw_networks: bool = False
    ) -> Interval | None:
        """Difference of the primary endpoint's interquartile means, ``ours`` minus ``other``.

        Args:
            ours: an agent.
            other: another.
            tasks: those to compare on.
            draw_networks: the interval is hierarchical, over networks and seeds.

        Returns:
            ``None`` when on some task no run of one of them keeps the target, or when networks
            are to be drawn and there is one only.
        """
        runs = [[r for r in self.of(agent, tasks) if r["kept"]] for agent in (ours, other)]
        found = [sorted({_task(r) for r in records}) for records in runs]
        networks = [task[0] for task in found[0]]
        if not found[0] == found[1] == sorted(tasks) or (draw_networks and len(set(networks)) < 2):
            return None
        return interquartile_mean_difference(
            *(_strata(records, _test_accuracy) for records in runs),
            networks=networks if draw_networks else None,
        )

    def best_reward(self, record: Record) -> float:
        """The largest reward of a search, worked out from what was measured."""
        target = record["cell"]["target"]
        pairs = zip(record["accuracy"], record["predicted_fraction"], strict=True)
        return max(sum(self._shape.terms(q, p / target).values()) for q, p in pairs)

    def profile(self, agent: str) -> list[Scores]:
        """Primary endpoint of an agent's runs by task, -1 for runs over target."""
        return _strata(self.of(agent), _endpoint)

    def curves(self, agent: str, tasks: Sequence[Task]) -> Scores:
        """Anytime curves, ``(runs, budget)``."""
        budget = self.settings.budget
        return np.stack([anytime(r).heights(budget) for r in self.of(agent, tasks)])

    def _iqm(self, records: Iterable[Record], value: Callable[[Record], float]) -> Interval:
        return interquartile_mean_interval(_strata(records, value))

    def _reached(self, records: Sequence[Record], level: float) -> tuple[float, float]:
        spent = [
            anytime(r).evaluations_to_reach(level * self.best_known[_task(r)]) for r in records
        ]
        return sum(map(math.isfinite, spent)) / len(spent), _median(spent)

    def _volume(self, records: Sequence[Record]) -> float:
        fronts = defaultdict(list)
        for record in records:
            point = (record["test_accuracy"], record["test_fraction"])
            fronts[record["cell"]["workload"], record["cell"]["seed"]].append(point)
        return float(np.mean([hypervolume(points) for points in fronts.values()]))


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


def _agent(record: Record) -> str:
    return str(record["cell"]["agent"])


def _task(record: Record) -> Task:
    return (record["cell"]["workload"], record["cell"]["target"])


def _test_accuracy(record: Record) -> float:
    return float(record["test_accuracy"])


def _endpoint(record: Record) -> float:
    return float(record["test_accuracy"]) if record["kept"] else -1.0


def _best_score(record: Record) -> float:
    best = anytime(record).best
    return (best[-1] if best else None) or 0.0


def _strata(records: Iterable[Record], value: Callable[[Record], float]) -> list[Scores]:
    """One array of runs per task, tasks in order."""
    found: dict[Task, list[float]] = defaultdict(list)
    for record in records:
        found[_task(record)].append(value(record))
    return [np.asarray(found[task], np.float64) for task in sorted(found)]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
