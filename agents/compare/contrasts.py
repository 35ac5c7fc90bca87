"""Differences between two agents, on tasks that both have runs of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .analysis import Analysis
from .records import Task, accuracy_of
from .statistics import (
    Interval,
    Scores,
    holm,
    over_networks,
    percentiles,
    permutation_p,
    task_mean_difference,
)


@dataclass(frozen=True)
class Difference:
    """A difference of two agents' means of task means.

    Attributes:
        interval: over other seeds of the same networks.
        p: two-sided, of a permutation of the runs within tasks.
        corrected: the same, corrected for all differences that were asked for together (Holm).
        networks: over other networks, each network being one observation; ``None`` for one.
    """

    interval: Interval
    p: float
    corrected: float
    networks: Interval | None


@dataclass(frozen=True)
class Contrast:
    """Test accuracy after fine-tuning of one agent minus that of another.

    Attributes:
        ours: one agent.
        other: the other.
        accuracy: of all runs.
        at_target: of all runs, read at SynOps = target; ``None`` where a task cannot be read so.
        kept: of runs that keep the target; ``None`` where one of the two has none on some task.
    """

    ours: str
    other: str
    accuracy: Difference
    at_target: Difference | None
    kept: Interval | None


def contrasts(
    analysis: Analysis,
    ours: str,
    tasks: Sequence[Task] | None = None,
    others: Sequence[str] | None = None,
) -> list[Contrast]:
    """An agent against others, the p values corrected for all of these together.

    Args:
        analysis: of the comparison.
        ours: an agent.
        tasks: those to compare on, all by default.
        others: all other agents by default.

    Returns:
        One for every other agent that has a run on each of the tasks, none without one of ours.
    """
    tasks = analysis.tasks if tasks is None else tasks
    wanted = [agent for agent in analysis.agents if agent != ours] if others is None else others
    whole = [agent for agent in wanted if not analysis.missing(agent, tasks)]
    if analysis.missing(ours, tasks):
        return []
    every = _corrected({other: _of_all_runs(analysis, ours, other, tasks) for other in whole})
    read = {other: _at_target(analysis, ours, other, tasks) for other in whole}
    level = _corrected({other: found for other, found in read.items() if found is not None})
    return [
        Contrast(ours, other, every[other], level.get(other), _kept(analysis, ours, other, tasks))
        for other in whole
    ]


Uncorrected = tuple[Interval, float, Interval | None]
"""Difference, p, and difference over networks."""


def _corrected(found: Mapping[str, Uncorrected]) -> dict[str, Difference]:
    p_values = holm({name: p for name, (_, p, _) in found.items()})
    return {
        name: Difference(interval, p, p_values[name], networks)
        for name, (interval, p, networks) in found.items()
    }


def _of_all_runs(analysis: Analysis, ours: str, other: str, tasks: Sequence[Task]) -> Uncorrected:
    x, y = (analysis.strata(agent, tasks, accuracy_of) for agent in (ours, other))
    return task_mean_difference(x, y), permutation_p(x, y), _over_networks(x, y, tasks)


def _at_target(
    analysis: Analysis, ours: str, other: str, tasks: Sequence[Task]
) -> Uncorrected | None:
    fits = analysis.fits([ours, other], tasks)
    if fits is None:
        return None
    x, y = ([fit.values[agent] for fit in fits] for agent in (ours, other))
    drawn = np.mean([fit.drawn[ours] - fit.drawn[other] for fit in fits], axis=0)
    interval = percentiles(float(np.mean(_differences(x, y))), drawn)
    return interval, permutation_p(x, y), _over_networks(x, y, tasks)


def _kept(analysis: Analysis, ours: str, other: str, tasks: Sequence[Task]) -> Interval | None:
    x, y = (analysis.kept(agent, tasks) for agent in (ours, other))
    return task_mean_difference(x, y) if all(map(len, [*x, *y])) else None


def _over_networks(
    x: Sequence[Scores], y: Sequence[Scores], tasks: Sequence[Task]
) -> Interval | None:
    return over_networks(_differences(x, y), [workload for workload, _ in tasks])


def _differences(x: Sequence[Scores], y: Sequence[Scores]) -> list[float]:
    """The difference of the means of each task."""
    return [float(a.mean() - b.mean()) for a, b in zip(x, y, strict=True)]
