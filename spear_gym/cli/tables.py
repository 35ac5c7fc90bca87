"""What the commands print of a search's outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from spear_gym.cli.common import WARNING, out, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spear_gym.agents.front import FrontPoint
    from spear_gym.agents.repair import RepairStep
    from spear_gym.agents.run_folder import SearchReport
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.judge import Judge
    from spear_gym.workload import Measurement

STYLES = {"kept": "bold green", "repaired": "bold green", "broken": "bold red"}
COLUMNS = ("", "accuracy", "SynOps", "fraction", "of target", "params")


def result_table(workload: str, target: float) -> Table:
    """An empty table of a search's figures."""
    table = Table(title=f"{workload}: target {target:.3f} of the unpruned SynOps")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    return table


def measured_row(
    name: str, figures: Measurement, fraction: float, target: float
) -> tuple[str, ...]:
    """A row of it."""
    return (
        name,
        f"{figures.accuracy:.4f}",
        f"{figures.synops:,.0f}",
        f"{fraction:.4f}",
        f"{fraction / target:.1%}",
        f"{figures.parameters:,}",
    )


def show_front(points: Sequence[FrontPoint], folder: Path) -> None:
    """Prints the networks for several targets, side by side."""
    table = Table(title="one network for each target (test)")
    for column in ("target", "fraction", "accuracy", "", "folder"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for point in points:
        table.add_row(
            f"{point.target:g}",
            f"{point.fraction:.4f}",
            f"{point.accuracy:.4f}",
            Text(point.outcome, STYLES[point.outcome]),
            str(folder / point.folder),
        )
    print_table(table)


def show_report(
    report: SearchReport, evaluator: PlanEvaluator, judge: Judge, target_synops: float | None
) -> None:
    """Prints the result of a search: unpruned, predicted and measured, and whether it is kept."""
    search, candidate, target = report.search, report.candidate, judge.target
    table = result_table(evaluator.workload.name, target)
    table.add_row(*measured_row("unpruned (test)", report.unpruned, 1.0, target))
    for name, fraction in _predictions(report, judge):
        table.add_row(
            name,
            f"{candidate.accuracy:.4f}*",
            f"{fraction * evaluator.reference.synops:,.0f}",
            f"{fraction:.4f}",
            f"{fraction / target:.1%}",
            f"{candidate.evaluation.parameters:,}",
        )
    table.add_row(*measured_row("measured (test)", report.measured, report.fraction, target))
    print_table(table)
    out.print("* before fine-tuning")
    widths = ", ".join(
        f"{group.name} {kept}/{group.channels}"
        for group, kept in zip(evaluator.space.groups, report.tuned.plan.counts, strict=True)
    )
    out.print(f"channels kept: {widths}", soft_wrap=True)
    charged = f"; charged beside: {search.charged}, {search.charged_for}" if search.charged else ""
    shared = report.scored_plans > len(search.candidates)
    pool = f", chosen from {report.scored_plans} scored for any target" if shared else ""
    out.print(
        f"paid evaluations: {search.paid} ({search.episodes} episodes, {search.runs} simulator "
        f"runs); plans fine-tuned: {report.tuned_plans}{pool}{charged}",
        soft_wrap=True,
    )
    if search.ended:
        out.print(f"the search ended before its budget: {search.ended}")
    phases = report.phases
    out.print(
        f"time: search {phases.search:.1f} s, fine-tune {phases.finetune:.1f} s, "
        f"test {phases.test:.1f} s"
    )
    if not candidate.feasible:
        out.print("no plan was predicted to keep the target; this is the nearest", style=WARNING)
    _warn_of_poor_fit(judge)
    if not search.updated:
        out.print("no update within budget: the agent never learned", style=WARNING)
    for fault in search.faults:
        out.print(fault, style=WARNING, soft_wrap=True)
    if target_synops is not None:
        out.print(f"target: {target_synops:,.0f} SynOps per sample, judged absolutely on test")
    _show_repairs(report)
    outcome = report.outcome(target, target_synops)
    why = _why_broken(report, evaluator, target) if outcome == "broken" else ""
    out.print(Text.assemble("target ", (outcome, STYLES[outcome]), why), soft_wrap=True)


def _warn_of_poor_fit(judge: Judge) -> None:
    from spear_gym.lre import FittedEstimator, estimate_of

    fit = estimate_of(judge.estimator)
    if isinstance(fit, FittedEstimator) and fit.poor:
        out.print(
            f"the prediction of SynOps fits poorly (R2 {fit.fit.r2:.3f}); bounds on it are widened",
            style=WARNING,
        )


def _predictions(report: SearchReport, judge: Judge) -> list[tuple[str, float]]:
    """Rows of the prediction, and of its bound where plans were judged by one."""
    from spear_gym.lre import BoundedEstimator

    fraction, evaluation = report.candidate.predicted_fraction, report.candidate.evaluation
    estimator = judge.estimator
    if not isinstance(estimator, BoundedEstimator):
        return [("predicted (search)", fraction)]
    mean = estimator.estimate.predict(evaluation.synops_fraction, evaluation.layer_fractions)
    return [
        ("predicted (search)", mean),
        (f"bound at {estimator.confidence:.0%} (search)", fraction),
    ]


def _why_broken(report: SearchReport, evaluator: PlanEvaluator, target: float) -> str:
    on_search = report.tuned.search.synops / evaluator.reference.synops
    if on_search <= target:
        return f" on test, though kept on search ({on_search:.4f}); aim a little lower"
    if report.tuned.plan.counts == evaluator.space.smallest_counts():
        return ": every group is at its smallest; raise the target or --max-ratio"
    return "" if report.repairs else ": it was not repaired"


def _show_repairs(report: SearchReport) -> None:
    if not report.repairs:
        return
    for step in report.repairs:
        out.print(step_line(step), soft_wrap=True)
    epochs = sum(step.epochs for step in report.repairs)
    out.print(
        f"repair: {_epochs(epochs)} of fine-tuning and {report.repair_evaluations} evaluations, "
        "beside those of the search",
        soft_wrap=True,
    )


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


def step_line(step: RepairStep) -> str:
    """A step of a repair in words."""
    kept = "" if step.adopted else "; not adopted, for it is not better on search"
    plan = "-".join(map(str, step.counts))
    return (
        f"{step.action}: to {plan}, {_epochs(step.epochs)}, then {step.fraction:.4f} of the SynOps "
        f"and accuracy {step.accuracy:.4f} on search{kept}"
    )
