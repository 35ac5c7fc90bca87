"""``spear compare`` and ``spear report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_gym.cli.common import (
    MOST_SEEDS,
    app,
    check_count,
    complain,
    err,
    listed,
    numbers,
    out,
    progress_bar,
    reward_settings_of,
    set_threads,
    worker_count,
)
from spear_gym.cli.lre import confidence_of
from spear_gym.cli.options import (
    BudgetOption,
    ChannelMultipleOption,
    ConfidenceOption,
    CriterionOption,
    ExcludeOption,
    ExtrapolateOption,
    HideOption,
    LREOption,
    MaxRatioOption,
    MinChannelsOption,
    PrecisionOption,
    RewardOption,
    RewardSettingOption,
    ScoringOption,
    StorageOption,
    TargetsOption,
    WorkersOption,
)
from spear_gym.cli.outputs import check_report

if TYPE_CHECKING:
    from spear_gym.agents.compare.cells import Cell
    from spear_gym.agents.compare.run import Comparison

FAILED = 1
"""Exit status when some cells have no result."""


@app.command()
def compare(
    agents: Annotated[str, typer.Option(help="Names, or paths, separated by commas.")],
    workload: Annotated[
        str, typer.Option(help="Networks, separated by commas; each is a task of its own.")
    ] = "digits",
    targets: TargetsOption = "0.3",
    seeds: Annotated[int, typer.Option(help="Runs per agent, network and target.")] = 5,
    budget: BudgetOption = 200,
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder; finished cells in it are not run again.")
    ] = Path("runs/comparison"),
    reward: RewardOption = "tar",
    reward_setting: RewardSettingOption = None,
    scoring: ScoringOption = None,
    precision: PrecisionOption = "float32",
    criterion: CriterionOption = "l1",
    lre: LREOption = "auto",
    confidence: ConfidenceOption = "off",
    extrapolate: ExtrapolateOption = False,
    channel_multiple: ChannelMultipleOption = 1,
    min_channels: MinChannelsOption = 1,
    max_ratio: MaxRatioOption = 0.9,
    exclude: ExcludeOption = None,
    hide: HideOption = None,
    storage: StorageOption = None,
    workers: WorkersOption = None,
) -> None:
    """Compare agents on equal budgets; the report says how sure it is."""
    set_threads(1)
    from spear_gym.agents.compare.cells import CompareSettings
    from spear_gym.agents.compare.run import compare as run_comparison
    from spear_gym.agents.compare.run import is_comparison, unfinished
    from spear_gym.settings import Goal, PlanSettings
    from spear_gym.workload import resolve_workload

    check_count("seeds", seeds, most=MOST_SEEDS)
    settings = CompareSettings(
        workloads=listed(workload),
        agents=listed(agents),
        targets=numbers(targets),
        seeds=seeds,
        budget=budget,
        plans=PlanSettings(
            scoring,
            precision,
            criterion,
            channel_multiple,
            min_channels,
            max_ratio,
            tuple(exclude or ()),
        ),
        goal=Goal(
            reward=reward,
            reward_settings=reward_settings_of(reward_setting or []),
            lre=lre,
            confidence=confidence_of(confidence),
            extrapolate=extrapolate,
        ),
        hidden_features=tuple(hide or ()),
    )
    check_report(out_folder, "cells.csv", ours=is_comparison(out_folder))
    loaded = {name: resolve_workload(name) for name in settings.workloads}
    count = worker_count(workers)
    cells = settings.cells()
    waiting = len(unfinished(out_folder, cells))
    with progress_bar("{task.fields[last]}") as progress:
        task = progress.add_task("cells", total=len(cells), completed=len(cells) - waiting, last="")

        def show(cell: Cell, problem: str | None) -> None:
            if problem is not None:
                failed_twice(cell, problem)
            progress.update(task, advance=1, last=str(cell))

        found = run_comparison(
            settings, loaded, out_folder, workers=count, storage=storage, on_cell=show
        )
    _write(found, out_folder)


@app.command()
def report(
    source: Annotated[
        Path, typer.Argument(help="Folder of a comparison or a sensitivity study, or an archive.")
    ],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where to; into the folder if unset.")
    ] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Pictures as SVG, too.")] = False,
) -> None:
    """Write the report of a comparison or a sensitivity study again, from its archives alone.

    Archives lie in the folder itself or in its `data`.
    """
    from spear_gym.agents.compare.run import ARCHIVE, Comparison
    from spear_gym.agents.compare.sensitivity import STUDY, read_study
    from spear_gym.agents.compare.sensitivity_report import write_study_report

    folder = source if source.is_dir() else source.parent
    data = folder / "data" if source.is_dir() and (source / "data").is_dir() else folder
    out_folder = out_folder or folder
    if source.is_dir() and (data / STUDY).is_file():
        study, studied = read_study(data)
        check_report(out_folder, "study.csv", ours=source.is_dir() and out_folder == folder)
        write_study_report(study, studied, out_folder, svg=svg)
        path = out_folder / "report.html"
        out.print(f"{len(study)} variants; report: {path}", soft_wrap=True)
        each = {v.folder_name: c for v, c in zip(study, studied, strict=True)}.values()
        missing_cells(sum(len(c.settings.cells()) - len(c.records) for c in each))
    else:
        archive = data / ARCHIVE if source.is_dir() else source
        found = Comparison.load(archive)
        check_report(out_folder, "cells.csv", ours=source.is_dir() and out_folder == folder)
        _write(found, out_folder, svg=svg)


def _write(found: Comparison, folder: Path, *, svg: bool = False) -> None:
    from spear_gym.agents.compare.report import write_report

    if found.records:
        write_report(found, folder, svg=svg)
        path = folder / "report.html"
        out.print(f"{len(found.records)} cells; report: {path}", soft_wrap=True)
    missing_cells(len(found.settings.cells()) - len(found.records))


def failed_twice(cell: Cell, problem: str) -> None:
    """Says that a cell failed for good."""
    complain("failed twice:", f"{cell}: {problem}")


def missing_cells(missing: int) -> None:
    """Ends the command with an error when some cells have no result."""
    if missing:
        err.print(f"{missing} cells have no result; the same command goes on with them")
        raise typer.Exit(FAILED)
