"""``spear lre``, and the fit that a search needs first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_gym.cli.common import (
    INTERRUPTED,
    MOST_PLANS,
    WARNING,
    app,
    check_count,
    check_seed,
    numbers,
    out,
    progress_bar,
    set_threads,
    worker_count,
)
from spear_gym.cli.options import (
    ConfidenceOption,
    CriterionOption,
    NameArgument,
    PrecisionOption,
    ScoringOption,
    WorkersOption,
)
from spear_gym.cli.outputs import check_output, with_format

if TYPE_CHECKING:
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.lre import FittedEstimator, SynopsEstimator
    from spear_gym.lre.fit import Progress, Stopping
    from spear_gym.settings import Goal


@app.command()
def lre(
    name: NameArgument,
    samples: Annotated[int, typer.Option(help="Most plans to fine-tune and fit to.")] = 40,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Stop once the 95 % interval of the mean at the targets is within this share of "
            "the unpruned SynOps; 0 takes all samples."
        ),
    ] = 0.02,
    targets: Annotated[str, typer.Option(help="SynOps fractions to be sure at.")] = "0.15,0.3,0.5",
    confidence: ConfidenceOption = "0.95",
    estimator: Annotated[
        str, typer.Option(help="linear, proportional, quadratic, per-layer, trees, mlp or gp.")
    ] = "linear",
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
    """Fit LRE: predict SynOps after fine-tuning from those before.

    Samples are kept as they come: the same command goes on where it was stopped.
    """
    set_threads(1)
    from spear_gym.lre.estimators import LRE_FORMAT
    from spear_gym.lre.families import check_family
    from spear_gym.lre.fit import Stopping
    from spear_gym.settings import PlanSettings
    from spear_gym.workload import resolve_workload

    check_seed(seed)
    check_family(estimator)
    check_count("samples", samples, least=3, most=MOST_PLANS)
    check_count("held_out", held_out, least=0, most=MOST_PLANS)
    stopping = Stopping(numbers(targets), tolerance, confidence_of(confidence), samples)
    plans = PlanSettings(scoring=scoring, precision=precision, criterion=criterion)
    evaluator = plans.evaluator(resolve_workload(name))
    path = out_path or _own_path(evaluator)
    check_output(path, with_format(LRE_FORMAT))
    fit_with_progress(evaluator, stopping, held_out, estimator, seed, workers, path)


def confidence_of(text: str) -> float | None:
    """A confidence, ``None`` for ``off``.

    Raises:
        LREError: for anything else.
    """
    from spear_gym.lre.conformal import check_confidence
    from spear_gym.lre.samples import LREError

    if text == "off":
        return None
    try:
        confidence = float(text)
    except ValueError:
        raise LREError(
            f"confidence is '{text}'; it must be a number such as 0.95, or off"
        ) from None
    check_confidence(confidence)
    return confidence


def samples_path(path: Path) -> Path:
    """Where the samples of a fit are kept while they come in."""
    return path.with_name(f"{path.stem}.samples.json")


def _own_path(evaluator: PlanEvaluator) -> Path:
    """Where a fit of the user's own is kept.

    Raises:
        LREError: when it cannot be written there, as in a home folder that is read-only.
    """
    from spear_gym.boundary.files import check_writable
    from spear_gym.envs_registry.fits import user_path
    from spear_gym.lre.samples import LREError

    path = user_path(evaluator)
    try:
        check_writable(path)
    except OSError as error:
        raise LREError(
            f"cannot keep the fit in '{path.parent}': {error}; set SPEAR_GYM_HOME to a folder that "
            "can be written, or fit with `spear lre --out FILE` and search with `--lre FILE`"
        ) from error
    return path


def fit_with_progress(
    evaluator: PlanEvaluator,
    stopping: Stopping,
    held_out: int,
    estimator: str,
    seed: int,
    workers: int | None,
    path: Path,
) -> FittedEstimator:
    """Fits LRE, shows the intervals shrinking and the quality, and writes the fit to ``path``."""
    from spear_gym.boundary.files import write_json
    from spear_gym.lre.fit import fit_lre

    count = worker_count(workers)
    with progress_bar("{task.fields[sure]}") as progress:
        total = stopping.cap + held_out
        task = progress.add_task("fine-tune random plans", total=total, sure="")

        def show(now: Progress) -> None:
            progress.advance(task)
            if now.mean_half_width is not None:
                progress.update(
                    task,
                    sure=f"mean within ±{now.mean_half_width:.3f}, "
                    f"one plan within ±{now.plan_half_width:.3f}",
                )

        try:
            fit = fit_lre(
                evaluator,
                stopping=stopping,
                held_out=held_out,
                estimator=estimator,
                seed=seed,
                workers=count,
                store=samples_path(path),
                on_sample=show,
            )
        except KeyboardInterrupt:
            out.print("interrupted; the samples so far are kept: the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
        progress.update(task, completed=total)
    write_json(path, fit.to_json())
    _show(fit, stopping)
    out.print(f"wrote {path}", soft_wrap=True)
    return fit


def _show(fit: FittedEstimator, stopping: Stopping) -> None:
    from spear_gym.lre import LinearEstimator, NoEstimator, quality_of

    if isinstance(fit, LinearEstimator):
        out.print(
            f"after = {fit.weight:.4f} * before + {fit.intercept:.4f} (fractions of unpruned)"
        )
    for label, figures in (("fit", fit.fit), ("held out", fit.held_out)):
        if figures is not None:
            out.print(
                f"{label}: R2 {figures.r2:.4f}, mean absolute error "
                f"{figures.mean_absolute_error:.4f}, residual spread {figures.residual_std:.4f} "
                f"({figures.samples} plans)"
            )
    judged = fit.samples[fit.fit.samples :] if fit.held_out is not None else fit.samples
    control = quality_of(NoEstimator(), judged)
    out.print(
        f"no prediction (after = before) on the same: R2 {control.r2:.4f}, mean absolute error "
        f"{control.mean_absolute_error:.4f}"
    )
    widths = stopping.widths(fit.fitted)
    if widths is not None:
        shown = ", ".join(f"{target:g}" for target in stopping.targets)
        out.print(
            f"95 % intervals of the line at {shown}: mean within ±{widths[0]:.4f} "
            f"(asked: {stopping.tolerance:g}), one plan within ±{widths[1]:.4f}",
            soft_wrap=True,
        )
        if widths[0] > stopping.tolerance > 0:
            out.print(
                "the samples ended before the mean was as sure as asked; raise --samples",
                style=WARNING,
            )
    if fit.failed:
        out.print(f"{fit.failed} fine-tunes failed and were left out", style=WARNING)
    if fit.poor:
        out.print(
            f"R2 is {fit.fit.r2:.3f}: the prediction fits poorly, and bounds on it are widened",
            style=WARNING,
        )


def estimator_for(
    evaluator: PlanEvaluator, goal: Goal, workers: int | None, targets: tuple[float, ...]
) -> SynopsEstimator:
    """The estimator of a goal, for these targets.

    A missing fit is made first, and kept for the next time.
    """
    from spear_gym.envs_registry.fits import stored_lre
    from spear_gym.judge import make_estimator
    from spear_gym.lre.estimators import LRE_FORMAT
    from spear_gym.lre.fit import Stopping, check_reachable

    stored = stored_lre(evaluator) if goal.lre == "auto" else None
    if goal.lre == "auto" and stored is None:
        stopping = Stopping(targets, confidence=goal.confidence)
        path = _own_path(evaluator)
        check_output(path, with_format(LRE_FORMAT))
        out.print(
            f"no LRE fit for workload '{evaluator.workload.name}' with scoring "
            f"'{evaluator.scoring}': fine-tuning up to {stopping.cap} random plans first",
            soft_wrap=True,
        )
        check_reachable(evaluator, targets, store=samples_path(path))
        stored = fit_with_progress(evaluator, stopping, 0, "linear", 0, workers, path)
    return make_estimator(evaluator, goal.lre, stored)
