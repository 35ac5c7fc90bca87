"""``spear lre``, and the fit that a search needs first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_gym.cli.common import (
    LRE_SAMPLES,
    CriterionOption,
    NameArgument,
    PrecisionOption,
    ScoringOption,
    WorkersOption,
    app,
    check_output,
    check_seed,
    out,
    progress_bar,
    resolve_workload,
    set_threads,
    worker_count,
)

if TYPE_CHECKING:
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.lre import SynopsEstimator


@app.command()
def lre(
    name: NameArgument,
    samples: Annotated[
        int, typer.Option(help="Random plans to fine-tune and fit to.")
    ] = LRE_SAMPLES,
    held_out: Annotated[int, typer.Option(help="Further plans to judge the fit on.")] = 12,
    scoring: ScoringOption = None,
    precision: PrecisionOption = "float32",
    criterion: CriterionOption = "l1",
    seed: Annotated[int, typer.Option(help="Of the plans and fine-tunes.")] = 0,
    workers: WorkersOption = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="File of the fit; the user's cache if unset.")
    ] = None,
) -> None:
    """Fit LRE: predict SynOps after fine-tuning from those before."""
    set_threads(1)
    from spear_gym.envs_registry.fits import user_path
    from spear_gym.evaluation import PlanEvaluator

    evaluator = PlanEvaluator(
        resolve_workload(name),
        scoring=scoring,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        criterion=criterion,
    )
    check_seed(seed)
    path = out_path or user_path(evaluator)
    check_output(path)
    fit_with_progress(evaluator, samples, held_out, seed, workers, path)


def fit_with_progress(
    evaluator: PlanEvaluator,
    samples: int,
    held_out: int,
    seed: int,
    workers: int | None,
    path: Path,
) -> None:
    """Fits LRE, shows the progress and the quality, and writes the fit to ``path``."""
    from spear_gym.files import write_json
    from spear_gym.lre import Sample, quality
    from spear_gym.lre_fit import fit_lre

    count = worker_count(workers)
    with progress_bar() as progress:
        task = progress.add_task("fine-tune random plans", total=samples + held_out)

        def show(_: Sample | None) -> None:
            progress.advance(task)

        fit = fit_lre(
            evaluator,
            samples=samples,
            held_out=held_out,
            seed=seed,
            workers=count,
            on_sample=show,
        )
    write_json(path, fit.to_json())
    out.print(f"after = {fit.weight:.4f} * before + {fit.intercept:.4f} (fractions of unpruned)")
    for label, figures in (("fit", fit.fit), ("held out", fit.held_out)):
        if figures is not None:
            out.print(
                f"{label}: R2 {figures.r2:.4f}, mean absolute error "
                f"{figures.mean_absolute_error:.4f}, residual spread {figures.residual_std:.4f} "
                f"({figures.samples} plans)"
            )
    judged = fit.samples[-held_out:] if fit.held_out is not None else fit.samples
    control = quality((1.0, 0.0), judged)
    out.print(
        f"no prediction (after = before) on the same: R2 {control.r2:.4f}, mean absolute error "
        f"{control.mean_absolute_error:.4f}"
    )
    out.print(f"wrote {path}", soft_wrap=True)


def estimator_for(evaluator: PlanEvaluator, lre: str, workers: int | None) -> SynopsEstimator:
    """The estimator asked for; a missing fit is made first, and kept for the next time."""
    from spear_gym.envs_registry.fits import stored_lre, user_path
    from spear_gym.target import make_estimator

    stored = stored_lre(evaluator) if lre == "auto" else None
    if lre == "auto" and stored is None:
        path = user_path(evaluator)
        check_output(path)
        out.print(
            f"no LRE fit for workload '{evaluator.workload.name}' with scoring "
            f"'{evaluator.scoring}': fine-tuning {LRE_SAMPLES} random plans first",
            soft_wrap=True,
        )
        fit_with_progress(evaluator, LRE_SAMPLES, 0, 0, workers, path)
        stored = stored_lre(evaluator)
    return make_estimator(evaluator, lre, stored)
