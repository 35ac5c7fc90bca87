"""The pictures of a comparison's report, drawn from its analysis."""

from __future__ import annotations

import numpy as np

from spear_gym.report.comparison_pictures import (
    curves_figure,
    fronts_figure,
    intervals_figure,
    plans_figure,
    profiles_figure,
)
from spear_gym.report.page import Picture

from .analysis import Analysis, Task
from .statistics import (
    Interval,
    interquartile_mean_band,
    performance_profile,
    performance_profile_band,
)


def endpoints_picture(analysis: Analysis) -> Picture:
    """The primary endpoint of every agent with its interval, by data set and target."""
    panels: dict[str, dict[str, Interval]] = {}
    for name, tasks in analysis.data_sets().items():
        for target in sorted({task[1] for task in tasks}, reverse=True):
            some = [task for task in tasks if task[1] == target]
            networks = "" if len(some) == 1 else f", {len(some)} networks"
            found = {agent: analysis.kept_accuracy(agent, some) for agent in analysis.agents}
            panels[f"{name}{networks}, target {target:g}"] = {
                agent: interval for agent, interval in found.items() if interval is not None
            }
    return Picture(
        "endpoints",
        intervals_figure(panels, analysis.agents, "accuracy after fine-tuning (test), target kept"),
        "The primary endpoint by data set and target: interquartile mean over runs that keep the "
        "target, with its 95 % bootstrap interval, which is too narrow where few runs kept it. No "
        "mark: on one of the networks none did.",
    )


def curves_picture(analysis: Analysis) -> Picture:
    """Anytime curves with their bands, by task."""
    panels = {}
    for task in analysis.tasks:
        curves = {}
        for agent in analysis.agents:
            if analysis.of(agent, [task]):
                heights = analysis.curves(agent, [task])
                curves[agent] = interquartile_mean_band(heights, resamples=500)
        panels[task_title(task)] = curves
    return Picture(
        "curves",
        curves_figure(panels, analysis.agents),
        "Best score of a plan predicted to keep the target, against spent evaluations: "
        "interquartile mean over seeds and its 95 % bootstrap band.",
    )


def fronts_picture(analysis: Analysis) -> Picture:
    """Accuracy against SynOps of every run, by network."""
    panels: dict[str, dict[str, list[tuple[float, float, bool]]]] = {}
    for workload in analysis.settings.workloads:
        tasks = [task for task in analysis.tasks if task[0] == workload]
        if tasks:
            panels[workload] = {
                agent: [
                    (r["test_fraction"], r["test_accuracy"], bool(r["kept"]))
                    for r in analysis.of(agent, tasks)
                ]
                for agent in analysis.agents
            }
    return Picture(
        "fronts",
        fronts_figure(panels, analysis.agents),
        "Accuracy against SynOps on the test split after fine-tuning, one point per run; hollow "
        "where the target is broken.",
    )


def profiles_picture(analysis: Analysis) -> Picture:
    """Performance profiles over all tasks, with their bands."""
    scores = [value for a in analysis.agents for task in analysis.profile(a) for value in task]
    kept = [value for value in scores if value >= 0] or [0.0]
    thresholds = np.linspace(min(kept) - 0.01, max(kept), 200)
    profiles = {}
    for agent in analysis.agents:
        scores_of = analysis.profile(agent)
        band = performance_profile_band(scores_of, thresholds)
        profiles[agent] = (performance_profile(scores_of, thresholds), *band)
    return Picture(
        "profiles",
        profiles_figure(profiles, thresholds),
        "Performance profiles: share of an agent's runs, over all tasks, that keep the target with "
        "more than this accuracy, and its 95 % bootstrap band.",
    )


def plan_pictures(analysis: Analysis) -> list[Picture]:
    """Channels that every agent kept, one picture per task."""
    pictures = []
    for number, task in enumerate(analysis.tasks):
        shares, layers = {}, []
        for agent in analysis.agents:
            records = analysis.of(agent, [task])
            if records:
                layers = records[0]["groups"]
                plans = np.asarray([r["plan"] for r in records], np.float64)
                shares[agent] = plans.mean(0) / np.asarray(records[0]["channels"])
        title = f"{task_title(task)}: channels kept, mean over seeds"
        pictures.append(Picture(f"plans-{number}", plans_figure(shares, layers, title), title))
    return pictures


def task_title(task: Task) -> str:
    """How a task is called in a report."""
    return f"{task[0]}, target {task[1]:g}"
