"""``spear score-study`` and ``spear spread-study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from spear_gym.cli.common import (
    MOST_PLANS,
    MOST_SEEDS,
    app,
    check_count,
    check_criterion,
    check_seed,
    out,
    print_table,
    progress_bar,
    set_threads,
    worker_count,
)
from spear_gym.cli.options import (
    CriterionOption,
    NameArgument,
    WorkersOption,
)
from spear_gym.cli.outputs import check_output, nothing, with_entries


@app.command("score-study")
def score_study_command(
    name: NameArgument,
    plans: Annotated[int, typer.Option(help="Plans near one SynOps value, and over all.")] = 30,
    fraction: Annotated[float, typer.Option(help="The one SynOps value, a fraction.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of the plans and fine-tunes.")] = 0,
    criterion: CriterionOption = "l1",
    each: Annotated[
        bool, typer.Option("--each", help="Fine-tune from each scoring's network, not just one.")
    ] = False,
    workers: WorkersOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "runs/score-study"
    ),
) -> None:
    """Measure whether each way of scoring predicts the accuracy after fine-tuning."""
    set_threads(1)
    from spear_gym.boundary.files import file_name, write_bytes, write_json
    from spear_gym.studies.score import VALID, ScoredPlan, score_study
    from spear_gym.studies.score_picture import score_png
    from spear_gym.workload import resolve_workload

    check_seed(seed)
    check_count("plans", plans, least=3, most=MOST_PLANS)
    _check_fraction(fraction)
    check_criterion(criterion)
    stem = out_folder / file_name(name.replace(":", "-"))
    data, picture = (stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "png"))
    check_output(data, with_entries("workload", "fraction", "each", "plans", "validity"))
    if not data.exists():  # which is written first
        check_output(picture, nothing)
    workload = resolve_workload(name)
    count = worker_count(workers)
    with progress_bar() as progress:
        task = progress.add_task("score and fine-tune", total=2 * plans)

        def show(_: tuple[ScoredPlan, ...]) -> None:
            progress.advance(task)

        study = score_study(
            workload,
            fraction=fraction,
            plans=plans,
            seed=seed,
            criterion=criterion,
            each=each,
            workers=count,
            on_plan=show,
        )
    table = Table(
        "plans", "scoring", "Spearman", "95 % interval", "s per plan", "accuracy after",
        title=f"{name}: does the score predict the accuracy after fine-tuning?",
    )  # fmt: skip
    for row in study.validity:
        where = f"{row.plans} near {fraction:g}" if row.group == "fixed" else f"{row.plans} spread"
        table.add_row(
            where,
            row.scoring,
            f"{row.spearman:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.seconds:.3f}",
            f"{row.mean_accuracy:.4f}",
        )
    print_table(table)
    weak = [r.scoring for r in study.validity if r.group == "fixed" and r.spearman < VALID]
    if weak:
        out.print(f"below {VALID} at fixed SynOps, so a search compares proxies: {', '.join(weak)}")
    write_json(data, study.to_json())
    write_bytes(picture, score_png(study))
    out.print(f"wrote {stem}.json and .png", soft_wrap=True)


@app.command("spread-study")
def spread_study_command(
    name: NameArgument,
    plans: Annotated[int, typer.Option(help="Random plans near one SynOps value.")] = 12,
    seeds: Annotated[int, typer.Option(help="Fine-tunes of each.")] = 4,
    fraction: Annotated[float, typer.Option(help="The SynOps value, a fraction.")] = 0.3,
    workers: WorkersOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "runs/spread-study"
    ),
) -> None:
    """Measure whether a workload tells plans apart: spread between plans against seeds."""
    set_threads(1)
    from spear_gym.boundary.files import file_name, write_json
    from spear_gym.studies.spread import spread_study
    from spear_gym.workload import resolve_workload

    check_count("plans", plans, least=3, most=MOST_PLANS)
    check_count("seeds", seeds, least=2, most=MOST_SEEDS)
    _check_fraction(fraction)
    path = out_folder / f"{file_name(name.replace(':', '-'))}.json"
    check_output(path, with_entries("workload", "fraction", "accuracies", "seed_std", "plan_std"))
    workload = resolve_workload(name)
    count = worker_count(workers)
    with progress_bar() as progress:
        task = progress.add_task("fine-tune", total=plans * seeds)
        study = spread_study(
            workload,
            fraction=fraction,
            plans=plans,
            seeds=seeds,
            workers=count,
            on_finetune=lambda: progress.advance(task),
        )
    out.print(
        f"{name}: accuracy after fine-tuning spreads by {study.plan_std:.4f} between "
        f"{len(study.plans)} plans and by {study.seed_std:.4f} between {seeds} seeds of one: "
        f"{study.ratio:.1f} times",
        soft_wrap=True,
    )
    write_json(path, study.to_json())
    out.print(f"wrote {path}", soft_wrap=True)


def _check_fraction(fraction: float) -> None:
    """Refuses, before any work, a SynOps value that no plan has."""
    from spear_gym.judge import TargetError

    if not 0 < fraction <= 1:
        raise TargetError(f"fraction is {fraction:g}; it must lie in (0, 1]")
