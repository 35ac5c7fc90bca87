"""The report of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spear_gym.agents.algorithms import tuning_record
from spear_gym.files import write_text
from spear_gym.report.page import Page, Section, Table, csv_text, write_page

from .analysis import LEVELS, AgentFigures, Analysis, Task
from .pictures import (
    curves_picture,
    endpoints_picture,
    fronts_picture,
    plan_pictures,
    profiles_picture,
    task_title,
)
from .run import Comparison
from .statistics import (
    FEWEST_SEEDS,
    Interval,
)

PUBLISHED = Table(
    ("method", "data, network, time steps", "SynOps %", "parameters %", "accuracy %"),
    (
        ("SPEAR", "CIFAR-10, VGG16, 4", "62.5 / 52.5 / 46.4", "33.1 / 14.4 / 11.9",
         "92.49 / 91.77 / 91.62"),
        ("SPEAR", "CIFAR-10, ResNet18, 4", "39.2", "30.3", "92.78"),
        ("SPEAR", "CIFAR-100, VGG16 / ResNet18, 4", "69.0 / 48.2", "35.0 / 20.4", "70.50 / 68.86"),
        ("SPEAR", "CIFAR10-DVS, 5Conv+1FC, 10", "39.3", "17.1", "80.05"),
        ("Network Slimming", "CIFAR-10, VGG16, 4", "87.3 / 87.3", "40.3 / 14.3", "91.22 / 91.16"),
        ("SCA-based", "CIFAR-10, VGG16, 4", "67.8 / 63.0", "28.4 / 9.3", "91.67 / 90.26"),
    ),
    "As reported for SPEAR (Xie et al., arXiv 2507.02945), read from the transcription of a public "
    "replication, not from the paper itself. Other data, networks and budgets: for context only, "
    "not ours and not comparable with the tables above.",
    prose=True,
)  # fmt: skip

CELL_COLUMNS = (
    "workload", "agent", "target", "seed", "kept", "test_accuracy", "test_fraction", "paid",
    "charged", "episodes", "simulator_runs", "updated", "seconds", "search_seconds", "plan",
)  # fmt: skip


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes the report: ``report.html``, ``report.md``, ``figures/``, ``cells.csv``.

    Args:
        comparison: what it is made from, alone.
        folder: where to.

    Returns:
        The files.

    Raises:
        StatisticsError: when no cell finished.
    """
    files = write_page(page_of(comparison), folder)
    rows = [_cell_row(record) for record in comparison.records]
    write_text(folder / "cells.csv", csv_text(CELL_COLUMNS, rows))
    return [*files, folder / "cells.csv"]


def page_of(comparison: Comparison) -> Page:
    """The report as data."""
    analysis = Analysis(comparison)
    settings = comparison.settings
    sections = [
        _summary(analysis, comparison),
        _settings(comparison),
        Section("All tasks together", _reading(), _tables(analysis, analysis.tasks)),
    ]
    data_sets = analysis.data_sets()
    if len(data_sets) > 1:
        sections += [
            Section(f"On {name}", tables=_tables(analysis, tasks))
            for name, tasks in data_sets.items()
        ]
    if len(analysis.tasks) > 1:
        tables = [_figures_table(analysis, [task], task_title(task)) for task in analysis.tasks]
        sections.append(Section("Task by task", tables=tables))
    sections += [
        Section("How the searches went", pictures=[curves_picture(analysis)]),
        Section(
            "After fine-tuning",
            pictures=[fronts_picture(analysis), profiles_picture(analysis)],
        ),
        Section("The plans that were chosen", pictures=plan_pictures(analysis)),
        _budgets(analysis),
        Section("Published numbers", tables=[PUBLISHED]),
    ]
    names = ", ".join(settings.workloads)
    return Page(f"{len(analysis.agents)} agents on {names}", sections)


def _summary(analysis: Analysis, comparison: Comparison) -> Section:
    settings = comparison.settings
    missing = len(settings.cells()) - len(comparison.records)
    warnings = []
    if settings.seeds < FEWEST_SEEDS:
        runs = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
        warnings.append(
            f"Only {runs} per cell: with fewer than {FEWEST_SEEDS} the intervals "
            "say little, and nothing here should be taken for a ranking."
        )
    if missing:
        warnings.append(
            f"{missing} of {len(settings.cells())} cells have no result, {len(comparison.failures)}"
            " of them because they failed (see Settings)."
        )
    return Section(
        "Summary",
        _findings(analysis),
        (_improvement_table(analysis),),
        (endpoints_picture(analysis),),
        warning=" ".join(warnings),
    )


def _findings(analysis: Analysis) -> list[str]:
    found = [analysis.figures(agent) for agent in analysis.agents]
    figures = [f for f in found if f is not None and f.kept_accuracy is not None]
    texts = [
        "Primary endpoint: accuracy on the test split after fine-tuning, among runs whose SynOps "
        "on the test split keep the target. Figures are interquartile means over runs and tasks "
        "(each task weighs the same before a quarter is trimmed at both ends, which may leave out "
        "a hard or an easy task) with 95 % stratified bootstrap intervals (over seeds, networks "
        "fixed)."
    ]
    if figures:
        ranked = sorted(figures, key=lambda f: -_point(f.kept_accuracy))
        listing = ", ".join(f"{f.agent} {f.kept_accuracy}" for f in ranked)
        texts.append(f"From the highest to the lowest: {listing}.")
        if analysis.settings.seeds >= FEWEST_SEEDS:
            texts.append(_against_best(analysis, ranked[0].agent))
    absent = [f.agent for f in found if f is not None and f.kept_accuracy is None]
    if absent:
        texts.append(
            f"Not in this list, because on some task none of their runs kept the target: "
            f"{', '.join(absent)}."
        )
    return texts


def _against_best(analysis: Analysis, best: str) -> str:
    clear: list[str] = []
    open_: list[str] = []
    for other in analysis.agents:
        if other == best:
            continue
        chance = analysis.improvement(best, other)
        if chance is not None:
            (clear if chance.low > 0.5 else open_).append(other)
    parts = []
    if clear:
        parts.append(
            f"A run of {best} probably beats one of {', '.join(clear)} (the interval of that "
            "probability lies above one half; a run over target counts as beaten)."
        )
    if open_:
        parts.append(f"Between {best} and {', '.join(open_)} no difference is shown.")
    parts.append("The intervals are not corrected for the number of comparisons.")
    return " ".join(parts)


def _improvement_table(analysis: Analysis) -> Table:
    rows = []
    for ours in analysis.agents:
        cells = [ours]
        for other in analysis.agents:
            chance = None if ours == other else analysis.improvement(ours, other)
            cells.append("" if chance is None else _short(chance))
        rows.append(cells)
    return Table(
        ("agent", *analysis.agents),
        rows,
        "Probability that a run of the row's agent beats one of the column's at the primary "
        "endpoint; runs over target count as worse than all that keep it, ties as one half.",
    )


def settings_table(comparison: Comparison) -> Table:
    """What a comparison was asked for, and the versions it ran with."""
    settings = comparison.settings
    asked = settings.reward_settings
    rows = [
        ("networks", ", ".join(settings.workloads)),
        ("targets (SynOps after fine-tuning, of unpruned)", ", ".join(map(str, settings.targets))),
        ("seeds", ", ".join(map(str, range(settings.seeds)))),
        ("budget (paid evaluations, each)", str(settings.budget)),
        ("reward", settings.reward + (f" {json.dumps(asked)}" if asked else "")),
        ("scoring", settings.scoring or "the workload's default"),
        ("SynOps prediction", settings.lre),
        ("plans judged by", _judged_by(settings.confidence)),
        ("observation features hidden", ", ".join(settings.hidden_features) or "none"),
        *((f"version of {name}", value) for name, value in comparison.versions.items()),
    ]
    return Table(("setting", "value"), rows, prose=True)


def _judged_by(confidence: float | None) -> str:
    return "the prediction" if confidence is None else f"its upper bound at {confidence:.0%}"


def _settings(comparison: Comparison) -> Section:
    failures = [(cell, problem) for cell, problem in comparison.failures.items()]
    tables = [settings_table(comparison)]
    if failures:
        tables.append(Table(("cell", "error"), failures, "Cells that failed twice.", prose=True))
    return Section("Settings", tables=tables)


def _reading() -> list[str]:
    return [
        "Score is the accuracy on the search split before fine-tuning; area is the mean height of "
        "the curve of the best score of a plan predicted to keep the target, 0 before there is "
        "one; reached is the share of runs that came within 95 % and 99 % of the best score that "
        "any agent found on the task, and the median evaluations of all runs (∞: half of them "
        "never did)."
    ]


def _figures_table(analysis: Analysis, tasks: Sequence[Task], caption: str = "") -> Table:
    columns = [
        "agent", "runs", "test accuracy, target kept", "over target", "test accuracy, over target",
        "test accuracy, all runs", "best score", "best reward", "area",
        "distance from target", *(f"reached {level:.0%}" for level in LEVELS),
        "hypervolume", "seconds a cell", "seconds searching",
    ]  # fmt: skip
    found = [analysis.figures(agent, tasks) for agent in analysis.agents]
    return Table(columns, [_figures_row(f) for f in found if f is not None], caption)


def _tables(analysis: Analysis, tasks: Sequence[Task]) -> tuple[Table, ...]:
    tables = (_figures_table(analysis, tasks),)
    return (*tables, _contrasts(analysis, tasks)) if len(analysis.agents) > 1 else tables


def _contrasts(analysis: Analysis, tasks: Sequence[Task]) -> Table:
    first, *others = analysis.agents
    rows = []
    for other in others:
        both = [analysis.contrast(first, other, tasks, draw_networks=d) for d in (False, True)]
        rows.append((other, *("–" if found is None else _signed(found) for found in both)))
    networks = len({task[0] for task in tasks})
    return Table(
        (f"{first} minus", "networks fixed, over seeds", "over networks and seeds"),
        rows,
        "Difference of the interquartile means of test accuracy after fine-tuning among runs that "
        f"keep the target, with 95 % bootstrap intervals. {networks} network"
        + (
            "s were tried, and drawn with replacement in the last column: with so few, that "
            "interval is rough."
            if networks > 1
            else " was tried, so nothing can be said of others."
        ),
    )


def _figures_row(f: AgentFigures) -> list[str]:
    rate = f.violations
    return [
        f.agent,
        str(f.runs),
        "–" if f.kept_accuracy is None else str(f.kept_accuracy),
        f"{rate.point:.0%} [{rate.low:.0%}, {rate.high:.0%}]",
        "–" if f.violators_accuracy is None else f"{f.violators_accuracy:.3f}",
        str(f.accuracy),
        str(f.score),
        str(f.reward),
        str(f.area),
        f"{f.distance:.3f}",
        *(f"{share:.0%}, {count(median)}" for share, median in f.reached),
        f"{f.volume:.3f}",
        f"{f.seconds:.0f}",
        f"{f.search_seconds:.0f}",
    ]


def _budgets(analysis: Analysis) -> Section:
    rows = []
    for agent in analysis.agents:
        figures = analysis.figures(agent)
        assert figures is not None
        records = analysis.of(agent)
        tuning = tuning_record(agent)
        low, high = figures.paid
        rows.append(
            (
                agent,
                str(low) if low == high else f"{low}–{high}",
                str(figures.charged),
                str(sum(r["episodes"] for r in records)),
                str(sum(r["simulator_runs"] for r in records)),
                str(figures.without_update),
                "–" if tuning is None else _tuned(tuning),
            )
        )
    charged = sorted(
        {(r["cell"]["agent"], r["charged_for"]) for r in analysis.records if r["charged_for"]}
    )
    samples = sorted({(r["cell"]["workload"], r["lre_samples"]) for r in analysis.records})
    lre = ", ".join(f"{count} for {name}" for name, count in samples)
    return Section(
        "What it cost",
        [
            "A paid evaluation is a distinct plan within one search, wherever its answer came "
            "from; cells share answers, so the simulator ran less often. An agent without update "
            "never learned anything within the budget.",
            f"Not charged to any agent: plans fine-tuned to fit the SynOps prediction ({lre}), "
            "which all of them use, and the tuning of settings.",
            *(f"Charged to {agent}: {text}." for agent, text in charged),
        ],
        [
            Table(
                (
                    "agent", "paid", "charged beside", "episodes, all cells",
                    "simulator runs, all cells", "runs without update", "tuning (evaluations)",
                ),
                rows,
            )
        ],
    )  # fmt: skip


def _tuned(record: dict[str, Any]) -> str:
    beside = f", and {record['beside']}" if "beside" in record else ""
    return f"{record['evaluations']:,} on {record['workload']}{beside}"


def _cell_row(record: dict[str, Any]) -> list[object]:
    cell = record["cell"]
    values = cell | record | {"plan": "-".join(map(str, record["plan"]))}
    return [values[name] for name in CELL_COLUMNS]


def _short(interval: Interval) -> str:
    return f"{interval.point:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _signed(interval: Interval) -> str:
    return f"{interval.point:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def count(median: float) -> str:
    """A number of evaluations; infinite where it was never enough."""
    return f"{median:.0f}" if math.isfinite(median) else "∞"


def _point(interval: Interval | None) -> float:
    return -1.0 if interval is None else interval.point
