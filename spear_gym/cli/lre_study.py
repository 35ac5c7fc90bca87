"""``spear lre-study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear_gym.cli.common import (
    MOST_PLANS,
    app,
    check_count,
    check_seed,
    listed,
    numbers,
    out,
    progress_bar,
    set_threads,
    worker_count,
)
from spear_gym.cli.options import (
    NameArgument,
    WorkersOption,
)
from spear_gym.cli.outputs import check_output, check_report


@app.command("lre-study")
def lre_study_command(
    name: NameArgument,
    samples: Annotated[int, typer.Option(help="Plans to fine-tune, for each scoring.")] = 100,
    length_samples: Annotated[int, typer.Option(help="The same for each other length.")] = 40,
    held_out: Annotated[int, typer.Option(help="Further plans to judge on, for each.")] = 40,
    scorings: Annotated[
        str, typer.Option(help="Beside the workload's default, separated by commas.")
    ] = "plain",
    lengths: Annotated[
        str, typer.Option(help="Other lengths of fine-tuning, multiples of the workload's.")
    ] = "0.25,0.5,2,4",
    seed: Annotated[int, typer.Option(help="Of the plans and fine-tunes.")] = 0,
    workers: WorkersOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of samples and report.")] = Path(
        "runs/lre-study"
    ),
) -> None:
    """Study SynOps estimators: samples needed, extrapolation, other workloads, and why a line.

    NAME is a workload, or several separated by commas. The same command goes on after a stop.
    """
    set_threads(1)
    from spear_gym.boundary.files import file_name
    from spear_gym.boundary.text import unknown
    from spear_gym.report.page import write_page
    from spear_gym.simulation.simulate import SCORINGS
    from spear_gym.studies.lre import LREStudy, StudySettings, is_study, lre_study
    from spear_gym.studies.lre_report import lre_page
    from spear_gym.workload import WorkloadError, resolve_workload

    check_seed(seed)
    for scoring in listed(scorings):
        if scoring not in SCORINGS:
            raise WorkloadError(unknown("scoring", scoring, SCORINGS))
    for what, count in (("length_samples", length_samples), ("held_out", held_out)):
        check_count(what, count, least=5, most=MOST_PLANS)
    settings = StudySettings(
        samples,
        length_samples,
        held_out,
        listed(scorings),  # type: ignore[arg-type]
        numbers(lengths, "lengths") if lengths else (),
        seed,
    )
    check_report(out_folder)
    count = worker_count(workers)
    workloads = [resolve_workload(part) for part in listed(name)]
    paths = [out_folder / f"{file_name(workload.name)}.json.gz" for workload in workloads]
    for path in paths:
        check_output(path, is_study)
    studies: list[LREStudy] = []
    for workload, path in zip(workloads, paths, strict=True):
        with progress_bar() as progress:
            task = progress.add_task(f"fine-tune plans ({workload.name})", total=None)

            def show(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)  # noqa: B023 - called in here

            folder = out_folder / "samples"
            study = lre_study(workload, settings, folder=folder, workers=count, on_sample=show)
        study.save(path)
        studies.append(study)
    write_page(lre_page(studies), out_folder)
    out.print(f"report: {out_folder / 'report.html'}", soft_wrap=True)
