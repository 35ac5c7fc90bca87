"""The report of a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spear_gym.agents.algorithms import tuning_record
from spear_gym.boundary.files import write_text
from spear_gym.report.page import Page, Section, Table, csv_text, write_page

from .analysis import Analysis
from .cells import ADDED
from .contrasts import Contrast, contrasts
from .pictures import (
    contrasts_picture,
    curves_picture,
    endpoints_picture,
    fronts_picture,
    plan_pictures,
    profiles_picture,
    task_title,
)
from .records import Task
from .run import Comparison
from .statistics import FEWEST_SEEDS
from .tables import (
    contrast_table,
    endpoint_table,
    figures_reading,
    improvement_table,
    search_table,
    task_table,
)

CONTROL = "random"
"""Where it took part, all agents are compared with it."""

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
    "not ours and not comparable with the tables above, which reproduce and refute none of them.",
    prose=True,
)  # fmt: skip

CELL_COLUMNS = (
    "workload", "agent", "target", "seed", "kept", "test_accuracy", "test_fraction", "paid",
    "charged", "episodes", "simulator_runs", "updated", "seconds", "search_seconds", "plan",
)  # fmt: skip


def write_report(comparison: Comparison, folder: Path, *, svg: bool = False) -> list[Path]:
    """Writes the report: ``report.html``, ``report.md``, ``figures/``, ``cells.csv``.

    Args:
        comparison: what it is made from, alone.
        folder: where to.
        svg: pictures as SVG, too.

    Returns:
        The files.

    Raises:
        StatisticsError: when no cell finished.
    """
    files = write_page(page_of(comparison), folder, svg=svg)
    rows = [_cell_row(record) for record in comparison.records]
    write_text(folder / "cells.csv", csv_text(CELL_COLUMNS, rows))
    return [*files, folder / "cells.csv"]


def page_of(comparison: Comparison) -> Page:
    """The report as data."""
    analysis = Analysis(comparison)
    settings = comparison.settings
    sections = [
        _summary(analysis, comparison),
        *_against(analysis),
        _settings(comparison),
        Section("All tasks together", figures_reading(), _tables(analysis, analysis.tasks)),
    ]
    data_sets = analysis.data_sets()
    if len(data_sets) > 1:
        sections += [
            Section(f"On {name}", tables=[*_tables(analysis, tasks), *_first(analysis, tasks)])
            for name, tasks in data_sets.items()
        ]
    sections.append(_task_by_task(analysis))
    if len(analysis.agents) > 1:
        chances = [improvement_table(analysis, lost=lost) for lost in (False, True)]
        sections.append(Section("Which of two runs is better", tables=chances))
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
        pictures=(endpoints_picture(analysis),),
        warning=" ".join(warnings),
    )


def _findings(analysis: Analysis) -> list[str]:
    networks = len({workload for workload, _ in analysis.tasks})
    sets = len(analysis.data_sets())
    texts = [
        f"Accuracy on the test split after fine-tuning, on {_many(len(analysis.tasks), 'task')} "
        f"({_many(networks, 'network')} of {_many(sets, 'data set')}, by target). Each figure is "
        "the mean over tasks of the task's own mean, with a 95 % bootstrap interval over seeds, "
        "networks fixed. All runs count, over target or not; what keeping the target and equal "
        "SynOps change stands in the tables."
    ]
    found = [analysis.figures(agent) for agent in analysis.agents]
    figures = [f for f in found if f is not None]
    if figures:
        ranked = sorted(figures, key=lambda f: -f.accuracy.point)
        listing = ", ".join(f"{f.agent} {f.accuracy}" for f in ranked)
        texts.append(f"From the highest to the lowest: {listing}.")
    absent = [agent for agent in analysis.agents if analysis.missing(agent)]
    if absent:
        texts.append(
            f"Not in this list, because on some task none of their runs finished: "
            f"{', '.join(absent)}."
        )
    return texts


def _many(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _against(analysis: Analysis) -> list[Section]:
    """The first agent against all others, then the control against all others."""
    first = analysis.agents[0]
    names = [first] if CONTROL not in analysis.agents else list(dict.fromkeys([first, CONTROL]))
    sections = []
    for number, agent in enumerate(names):
        found = contrasts(analysis, agent)
        if found:
            enough = analysis.settings.seeds >= FEWEST_SEEDS
            sections.append(
                Section(
                    f"{agent} against the others",
                    _told(found) if enough else [],
                    [contrast_table(found, analysis.tasks)],
                    [contrasts_picture(found, analysis.agents, f"contrasts-{number}")],
                )
            )
    return sections


def _told(found: Sequence[Contrast]) -> list[str]:
    """Which contrasts stay below 0.05 after correction, in words."""
    ours = found[0].ours
    readings = {
        "Over all runs": {c.other: c.accuracy for c in found},
        "At SynOps = target (post hoc)": {
            c.other: c.at_target for c in found if c.at_target is not None
        },
    }
    texts = []
    for reading, differences in readings.items():
        clear = {other: d for other, d in differences.items() if d.corrected < 0.05}
        groups = {
            f"{ours} ends more accurate than": [o for o in clear if clear[o].interval.point > 0],
            f"{ours} ends less accurate than": [o for o in clear if clear[o].interval.point < 0],
            f"no difference is shown between {ours} and": [
                o for o in differences if o not in clear
            ],
        }
        said = [f"{text} {', '.join(names)}" for text, names in groups.items() if names]
        if said:
            texts.append(
                f"{reading}, corrected for {_many(len(differences), 'contrast')}, on these "
                f"networks: {'; '.join(said)}."
            )
    return texts


def _tables(analysis: Analysis, tasks: Sequence[Task]) -> tuple[Table, ...]:
    return endpoint_table(analysis, tasks), search_table(analysis, tasks)


def _first(analysis: Analysis, tasks: Sequence[Task]) -> list[Table]:
    """The first agent's contrasts on some of the tasks."""
    found = contrasts(analysis, analysis.agents[0], tasks)
    return [contrast_table(found, tasks)] if found else []


def _task_by_task(analysis: Analysis) -> Section:
    tables = [task_table(analysis)]
    if len(analysis.tasks) > 1:
        for task in analysis.tasks:
            tables.append(endpoint_table(analysis, [task], task_title(task)))
            tables.append(search_table(analysis, [task], task_title(task)))
    return Section("Task by task", tables=tables)


def settings_table(comparison: Comparison) -> Table:
    """What a comparison was asked for, and the versions it ran with."""
    settings = comparison.settings
    asked = settings.to_json()
    rows = [
        ("networks", ", ".join(settings.workloads)),
        ("targets (SynOps after fine-tuning, of unpruned)", ", ".join(map(str, settings.targets))),
        ("seeds", ", ".join(map(str, range(settings.seeds)))),
        ("budget (paid evaluations, each)", str(settings.budget)),
        ("reward", " ".join([asked["reward"], *_in_words(asked["reward_settings"])])),
        ("scoring", asked["scoring"] or "the workload's default"),
        ("SynOps prediction", asked["lre"]),
        ("plans judged by", _judged_by(asked["confidence"])),
        *((name.replace("_", " "), str(asked[name])) for name in ADDED if name in asked),
        ("observation features hidden", ", ".join(settings.hidden_features) or "none"),
        *((f"version of {name}", value) for name, value in comparison.versions.items()),
    ]
    return Table(("setting", "value"), rows, prose=True)


def _in_words(reward_settings: dict[str, float]) -> list[str]:
    return [json.dumps(reward_settings)] if reward_settings else []


def _judged_by(confidence: float | None) -> str:
    return "the prediction" if confidence is None else f"its upper bound at {confidence:.0%}"


def _settings(comparison: Comparison) -> Section:
    failures = [(cell, problem) for cell, problem in comparison.failures.items()]
    tables = [settings_table(comparison)]
    if failures:
        tables.append(Table(("cell", "error"), failures, "Cells that failed twice.", prose=True))
    return Section("Settings", tables=tables)


def _budgets(analysis: Analysis) -> Section:
    rows = []
    for agent in analysis.agents:
        records = analysis.of(agent)
        tuning = tuning_record(agent)
        paid = [int(r["paid"]) for r in records]
        low, high = min(paid), max(paid)
        rows.append(
            (
                agent,
                str(low) if low == high else f"{low}–{high}",
                str(max(r["charged"] for r in records)),
                str(sum(r["episodes"] for r in records)),
                str(sum(r["simulator_runs"] for r in records)),
                str(sum(not r["updated"] for r in records)),
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
