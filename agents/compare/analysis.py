"""From the records of cells to figures per agent.

A figure of several tasks exists only where the agent has a run on each of them, and is the mean of
the tasks' own figures: no two agents are ever compared over different tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .cells import CompareSettings
from .curves import hypervolume
from .equal_synops import AtTarget, at_target
from .records import (
    Record,
    Task,
    accuracy_of,
    accuracy_or_lost,
    anytime,
    best_score,
    distance_of,
    load_of,
    task_of,
)
from .run import Comparison
from .statistics import (
    Interval,
    Scores,
    percentiles,
    probability_of_improvement,
    task_mean_interval,
    violation_interval,
)

LEVELS = (0.95, 0.99)
"""Shares of the best known score that a search is timed to."""

NEAR = 0.02
"""A run at most this share over its target is only just over it."""


@dataclass(frozen=True)
class Overshoot:
    """By how much the runs over target are over it, as shares of the target.

    Attributes:
        runs: how many are.
        median: half of them are less far over.
        ninety: nine of ten are less far over.
        largest: the worst.
        near: how many are over by at most :data:`NEAR`.
    """

    runs: int
    median: float
    ninety: float
    largest: float
    near: int


@dataclass(frozen=True)
class AgentFigures:
    """An agent on some tasks; means of tasks unless said otherwise.

    Attributes:
        agent: its name.
        runs: cells that finished.
        plans: different plans among those that were fine-tuned, summed over tasks; as many as tasks
            means that an agent's runs are one plan fine-tuned again and again.
        accuracy: test accuracy after fine-tuning of all runs, over target or not.
        at_target: the same read at SynOps = target (:mod:`.equal_synops`); ``None`` where that
            cannot be.
        kept_accuracy: the same among runs that keep the target; ``None`` when on some task no run
            keeps it.
        kept: runs that keep the target.
        fewest_kept: of them, on the task with fewest.
        never_kept: tasks on which no run keeps the target.
        violations: share of all runs over target after fine-tuning, on test.
        overshoot: how far those are over; ``None`` without any.
        load: SynOps on test over the target, all runs.
        distance: median distance of the SynOps on test from the target, fraction of unpruned.
        score: best score before fine-tuning among plans predicted to keep the target, 0 without.
        reward: largest reward within the budget.
        area: mean height of the anytime curve of that score.
        reached: for each of :data:`LEVELS`, the share of runs that reached it and the median
            evaluations over all runs, infinite when half of them never did.
        volume: hypervolume of the accuracy-SynOps front over targets, mean over networks and seeds.
        seconds: median wall time of a cell.
        search_seconds: median wall time of its search.
    """

    agent: str
    runs: int
    plans: int
    accuracy: Interval
    at_target: Interval | None
    kept_accuracy: Interval | None
    kept: int
    fewest_kept: int
    never_kept: int
    violations: Interval
    overshoot: Overshoot | None
    load: float
    distance: float
    score: Interval
    reward: Interval
    area: Interval
    reached: tuple[tuple[float, float], ...]
    volume: float
    seconds: float
    search_seconds: float


class Analysis:
    """Figures of a comparison.

    Args:
        comparison: its records.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.settings: CompareSettings = comparison.settings
        self.records = comparison.records
        self.fingerprints = comparison.fingerprints
        self._runs: dict[tuple[str, Task], list[Record]] = defaultdict(list)
        for record in self.records:
            self._runs[record["cell"]["agent"], task_of(record)].append(record)
        found = {agent for agent, _ in self._runs}
        self.agents = [agent for agent in self.settings.agents if agent in found]
        self.tasks: list[Task] = sorted({task for _, task in self._runs})
        self.best_known = {
            task: max(best_score(r) for a in self.agents for r in self._runs.get((a, task), []))
            for task in self.tasks
        }
        self._shape = self.settings.goal.shape()

    def of(self, agent: str, tasks: Sequence[Task] | None = None) -> list[Record]:
        """The records of an agent, on some tasks."""
        wanted = self.tasks if tasks is None else tasks
        return [record for task in wanted for record in self._runs.get((agent, task), [])]

    def missing(self, agent: str, tasks: Sequence[Task] | None = None) -> list[Task]:
        """The tasks of these on which no cell of an agent finished."""
        wanted = self.tasks if tasks is None else tasks
        return [task for task in wanted if (agent, task) not in self._runs]

    def figures(self, agent: str, tasks: Sequence[Task] | None = None) -> AgentFigures | None:
        """An agent's figures on some tasks, ``None`` when no cell of one of them finished."""
        tasks = self.tasks if tasks is None else tasks
        if not tasks or self.missing(agent, tasks):
            return None
        records = self.of(agent, tasks)
        by_task = [self.of(agent, [task]) for task in tasks]
        kept = [sum(bool(r["kept"]) for r in task) for task in by_task]
        return AgentFigures(
            agent=agent,
            runs=len(records),
            plans=sum(len({tuple(r["plan"]) for r in task}) for task in by_task),
            accuracy=self._mean(agent, tasks, accuracy_of),
            at_target=self.accuracy_at_target(agent, tasks),
            kept_accuracy=self.kept_accuracy(agent, tasks),
            kept=sum(kept),
            fewest_kept=min(kept),
            never_kept=kept.count(0),
            violations=violation_interval(len(records) - sum(kept), len(records)),
            overshoot=_overshoot(records),
            load=float(np.mean([np.mean([load_of(r) for r in task]) for task in by_task])),
            distance=float(np.mean([_median(map(distance_of, task)) for task in by_task])),
            score=self._mean(agent, tasks, best_score),
            reward=self._mean(agent, tasks, self.best_reward),
            area=self._mean(agent, tasks, lambda r: anytime(r).area(self.settings.budget)),
            reached=tuple(self._reached(by_task, level) for level in LEVELS),
            volume=self._volume(records),
            seconds=_median(r["seconds"] for r in records),
            search_seconds=_median(r["search_seconds"] for r in records),
        )

    def kept_accuracy(self, agent: str, tasks: Sequence[Task] | None = None) -> Interval | None:
        """Test accuracy among runs that keep the target; ``None`` when on a task none does."""
        strata = self.kept(agent, self.tasks if tasks is None else tasks)
        return task_mean_interval(strata) if all(map(len, strata)) else None

    def accuracy_at_target(
        self, agent: str, tasks: Sequence[Task] | None = None
    ) -> Interval | None:
        """Test accuracy read at SynOps = target; ``None`` where a task cannot be read so."""
        fits = self.fits([agent], self.tasks if tasks is None else tasks)
        if fits is None:
            return None
        point = float(np.mean([fit.values[agent].mean() for fit in fits]))
        return percentiles(point, np.mean([fit.drawn[agent] for fit in fits], axis=0))

    def improvement(self, ours: str, other: str, *, lost: bool = False) -> Interval | None:
        """Probability that a run of ``ours`` ends more accurate than one of ``other``.

        Args:
            ours: an agent.
            other: another.
            lost: a run that breaks the target counts as worse than every one that keeps it.

        Returns:
            ``None`` when one of them has no run on some task.
        """
        if self.missing(ours) or self.missing(other):
            return None
        value = accuracy_or_lost if lost else accuracy_of
        x, y = (self.strata(agent, self.tasks, value) for agent in (ours, other))
        return probability_of_improvement(x, y)

    def data_sets(self) -> dict[str, list[Task]]:
        """The tasks by data set; one is named after the first network that was asked for on it."""
        names: dict[str, str] = {}
        found: dict[str, list[Task]] = {}
        for workload in self.settings.workloads:
            name = names.setdefault(self.fingerprints[workload]["data"], workload)
            found.setdefault(name, []).extend(t for t in self.tasks if t[0] == workload)
        return {name: tasks for name, tasks in found.items() if tasks}

    def best_reward(self, record: Record) -> float:
        """The largest reward of a search, worked out from what was measured."""
        target = record["cell"]["target"]
        pairs = zip(record["accuracy"], record["predicted_fraction"], strict=True)
        return max(sum(self._shape.terms(q, p / target).values()) for q, p in pairs)

    def profile(self, agent: str, *, lost: bool = False) -> list[Scores]:
        """Normalised accuracy of an agent's runs by task, for performance profiles.

        Within a task the least accurate run of any agent is 0 and the most accurate one is 1.

        Args:
            agent: one that has runs on all tasks.
            lost: runs over target count as -1.
        """
        strata = []
        for task in self.tasks:
            everyone = [r["test_accuracy"] for a in self.agents for r in self.of(a, [task])]
            low, high = min(everyone), max(everyone)
            scores = np.array([r["test_accuracy"] for r in self.of(agent, [task])])
            scores = (scores - low) / (high - low or 1.0)
            over = np.array([lost and not r["kept"] for r in self.of(agent, [task])])
            strata.append(np.where(over, -1.0, scores))
        return strata

    def curves(self, agent: str, tasks: Sequence[Task]) -> Scores:
        """Anytime curves, ``(runs, budget)``."""
        budget = self.settings.budget
        return np.stack([anytime(r).heights(budget) for r in self.of(agent, tasks)])

    @cached_property
    def at_target(self) -> dict[Task, AtTarget | None]:
        """Every task read at SynOps = target, with one slope for all agents of the comparison."""
        found = {}
        for task in self.tasks:
            runs = {
                agent: (
                    np.array([load_of(r) for r in self.of(agent, [task])]),
                    np.array([accuracy_of(r) for r in self.of(agent, [task])]),
                )
                for agent in self.agents
                if not self.missing(agent, [task])
            }
            found[task] = at_target(runs)
        return found

    def strata(
        self, agent: str, tasks: Sequence[Task], value: Callable[[Record], float]
    ) -> list[Scores]:
        """One array of runs per task."""
        return [np.array([value(r) for r in self.of(agent, [t])], np.float64) for t in tasks]

    def kept(self, agent: str, tasks: Sequence[Task]) -> list[Scores]:
        """Test accuracy of the runs that keep the target by task; a task may have none."""
        return [
            np.array([r["test_accuracy"] for r in self.of(agent, [t]) if r["kept"]]) for t in tasks
        ]

    def _mean(
        self, agent: str, tasks: Sequence[Task], value: Callable[[Record], float]
    ) -> Interval:
        return task_mean_interval(self.strata(agent, tasks, value))

    def fits(self, agents: Sequence[str], tasks: Sequence[Task]) -> list[AtTarget] | None:
        """The tasks at equal SynOps, if all of them have these agents."""
        fits = [fit for fit in (self.at_target[t] for t in tasks) if fit is not None]
        whole = len(fits) == len(tasks) > 0
        return fits if whole and all(a in fit.values for fit in fits for a in agents) else None

    def _reached(self, by_task: Sequence[list[Record]], level: float) -> tuple[float, float]:
        spent = [
            [anytime(r).evaluations_to_reach(level * self.best_known[task_of(r)]) for r in task]
            for task in by_task
        ]
        share = np.mean([np.mean([math.isfinite(n) for n in task]) for task in spent])
        return float(share), _median(n for task in spent for n in task)

    def _volume(self, records: Sequence[Record]) -> float:
        fronts: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for record in records:
            point = (record["test_accuracy"], record["test_fraction"])
            fronts[record["cell"]["workload"]][record["cell"]["seed"]].append(point)
        means = [np.mean([hypervolume(front) for front in n.values()]) for n in fronts.values()]
        return float(np.mean(means))


def _overshoot(records: Iterable[Record]) -> Overshoot | None:
    over = np.array([load_of(record) - 1 for record in records if not record["kept"]])
    if not len(over):
        return None
    median, ninety = np.quantile(over, [0.5, 0.9])
    near = int((over <= NEAR).sum())
    return Overshoot(len(over), float(median), float(ninety), float(over.max()), near)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
