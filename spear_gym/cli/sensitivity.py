"""``spear sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_gym.cli.common import (
    MOST_SEEDS,
    app,
    check_count,
    listed,
    numbers,
    out,
    progress_bar,
    set_threads,
    worker_count,
)
from spear_gym.cli.compare import failed_twice, missing_cells
from spear_gym.cli.lre import estimator_for
from spear_gym.cli.options import (
    LREOption,
    WorkersOption,
)
from spear_gym.cli.outputs import check_report

if TYPE_CHECKING:
    from spear_gym.agents.compare.cells import Cell


@app.command()
def sensitivity(
    agent: Annotated[str, typer.Option(help="By name, or module:attribute.")] = "spear-ddpg",
    workload: Annotated[str, typer.Option(help="Networks, separated by commas.")] = "digits",
    targets: Annotated[str, typer.Option(help="SynOps fractions, separated by commas.")] = "0.3",
    seeds: Annotated[int, typer.Option(help="Runs per variant, network and target.")] = 5,
    budget: Annotated[int, typer.Option(help="Paid evaluations of each search.")] = 200,
    lambdas: Annotated[
        str, typer.Option(help="Weights of the reward's penalty, separated by commas.")
    ] = "0.5,1,2,5,10,20,50",
    lre: LREOption = "auto",
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder; finished cells in it are not run again.")
    ] = Path("runs/sensitivity"),
    workers: WorkersOption = None,
) -> None:
    """Vary the penalty's weight, the measured observation features, and the way of scoring."""
    set_threads(1)
    from spear_gym.agents.compare.cells import CompareSettings
    from spear_gym.agents.compare.run import is_comparison, unfinished
    from spear_gym.agents.compare.sensitivity import run_study, variants, write_study
    from spear_gym.agents.compare.sensitivity_report import write_study_report
    from spear_gym.settings import Goal
    from spear_gym.workload import resolve_workload

    check_count("seeds", seeds, most=MOST_SEEDS)
    base = CompareSettings(
        workloads=listed(workload),
        agents=(agent,),
        targets=numbers(targets),
        seeds=seeds,
        budget=budget,
        goal=Goal(lre=lre),
    )
    loaded = {name: resolve_workload(name) for name in base.workloads}
    study = variants(base, loaded, numbers(lambdas, "lambdas"))
    begun = any(is_comparison(variant.folder(out_folder)) for variant in study)
    check_report(out_folder, "study.csv", ours=begun)
    count = worker_count(workers)
    # A way of scoring needs its own prediction of SynOps; a missing fit is made before any search.
    for plans in dict.fromkeys(variant.settings.plans for variant in study):
        for each in loaded.values():
            estimator_for(plans.evaluator(each), base.goal, workers, base.targets)
    folders = {variant.folder(out_folder): variant.settings for variant in study}
    total = sum(len(settings.cells()) for settings in folders.values())
    waiting = sum(len(unfinished(path, given.cells())) for path, given in folders.items())
    with progress_bar() as progress:
        task = progress.add_task("cells", total=total, completed=total - waiting)

        def show(cell: Cell, problem: str | None) -> None:
            if problem is not None:
                failed_twice(cell, problem)
            progress.update(task, advance=1)

        found = run_study(study, loaded, out_folder, workers=count, on_cell=show)
    write_study(study, out_folder)
    write_study_report(study, found, out_folder)
    out.print(f"report: {out_folder / 'report.html'}", soft_wrap=True)
    missing_cells(sum(len(unfinished(path, given.cells())) for path, given in folders.items()))
