"""The pictures of a comparison's report, drawn from its analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spear_gym.report.comparison_pictures import (
    Readings,
    curves_figure,
    fronts_figure,
    intervals_figure,
    plans_figure,
    profiles_figure,
)
from spear_gym.report.page import Picture

from .analysis import Analysis
from .contrasts import Contrast
from .records import Task
from .statistics import mean_band, performance_profile

READINGS = ("all runs", "all runs, at SynOps = target (post hoc)", "runs that keep the target")


def endpoints_picture(analysis: Analysis) -> Picture:
    """Test accuracy of every agent in its three readings, by data set and target."""
    panels: dict[str, dict[str, Readings]] = {}
    for name, tasks in analysis.data_sets().items():
        for target in sorted({task[1] for task in tasks}, reverse=True):
            some = [task for task in tasks if task[1] == target]
            networks = "" if len(some) == 1 else f", {len(some)} networks"
            found = {agent: analysis.figures(agent, some) for agent in analysis.agents}
            panels[f"{name}{networks}, target {target:g}"] = {
                agent: (f.accuracy, f.at_target, f.kept_accuracy)
                for agent, f in found.items()
                if f is not None
            }
    return Picture(
        "endpoints",
        intervals_figure(panels, analysis.agents, READINGS, "accuracy after fine-tuning (test)"),
        "Test accuracy after fine-tuning by data set and target: mean of the networks' means, with "
        "its 95 % bootstrap interval over seeds. Without a third mark: on one of the networks no "
        "run kept the target; without its bar: on one of them a single run did.",
    )


def contrasts_picture(found: Sequence[Contrast], agents: Sequence[str], name: str) -> Picture:
    """Differences to one agent."""
    (ours,) = {contrast.ours for contrast in found}
    rows: dict[str, Readings] = {
        c.other: (c.accuracy.interval, None if c.at_target is None else c.at_target.interval)
        for c in found
    }
    return Picture(
        name,
        intervals_figure(
            {f"{ours} minus": rows}, agents, READINGS[:2], "difference of test accuracy", zero=True
        ),
        f"Test accuracy of {ours} minus that of each other agent, mean of the tasks' differences, "
        "with 95 % bootstrap intervals over seeds, networks fixed. Right of 0 it is the better.",
    )


def curves_picture(analysis: Analysis) -> Picture:
    """Anytime curves with their bands, by task."""
    panels = {}
    for task in analysis.tasks:
        curves = {}
        for agent in analysis.agents:
            if analysis.of(agent, [task]):
                curves[agent] = mean_band(analysis.curves(agent, [task]), resamples=500)
        panels[task_title(task)] = curves
    return Picture(
        "curves",
        curves_figure(panels, analysis.agents),
        "Best score of a plan predicted to keep the target, against spent evaluations: "
        "mean over seeds and its 95 % bootstrap band.",
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
    """Performance profiles over all tasks, with their bands, once with violators as lost."""
    thresholds = np.linspace(-0.01, 1.0, 200)
    titles = {"all runs": False, "a run over target counts as below all": True}
    whole = [agent for agent in analysis.agents if not analysis.missing(agent)]
    panels = {
        title: {
            agent: performance_profile(analysis.profile(agent, lost=lost), thresholds)
            for agent in whole
        }
        for title, lost in titles.items()
    }
    return Picture(
        "profiles",
        profiles_figure(panels, thresholds),
        "Performance profiles: share of an agent's runs, mean over tasks, above an accuracy that "
        "is normalised within each task (0: the worst run of any agent, 1: the best), and its "
        "95 % bootstrap band.",
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
