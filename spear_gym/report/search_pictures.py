"""Pictures of a search: its curve, and the plan it chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spear_gym.report.drawing import saved
from spear_gym.report.plan_view import KEPT, TARGET, PlanView, plan_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEASIBLE, INFEASIBLE = "#2a6f97", "#c9c9c9"


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    return saved(figure, "png", dpi=120)


def plan_png(view: PlanView) -> bytes:
    """The chosen plan as a PNG file."""
    return png(plan_figure(view))


def curve_png(
    accuracies: Sequence[float],
    ratios: Sequence[float],
    title: str,
    target: float,
    metric: str = "accuracy",
) -> bytes:
    """A search as a PNG file: every paid evaluation, and the best feasible plan so far.

    Args:
        accuracies: accuracy before fine-tuning of each paid evaluation, in order.
        ratios: predicted SynOps over target of each.
        title: shown on top.
        target: the target fraction.
        metric: what the accuracies are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 1])
    paid = list(range(1, len(accuracies) + 1))
    keeps = [ratio <= 1 for ratio in ratios]
    colors = [FEASIBLE if kept else INFEASIBLE for kept in keeps]
    above.scatter(paid, accuracies, c=colors, s=14)
    above.scatter([], [], c=FEASIBLE, s=14, label="predicted to keep the target")
    above.scatter([], [], c=INFEASIBLE, s=14, label="predicted to break it")
    best, steps = None, []
    for accuracy, kept in zip(accuracies, keeps, strict=True):
        best = accuracy if kept and (best is None or accuracy > best) else best
        steps.append(float("nan") if best is None else best)
    above.step(paid, steps, where="post", color=KEPT, linewidth=2, label="best so far")
    above.set_ylabel(f"{metric} before fine-tuning")
    above.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    below.scatter(paid, [ratio * target for ratio in ratios], c=colors, s=14)
    below.axhline(target, color=TARGET, linewidth=1.5, label="target")
    below.set_ylabel("predicted SynOps\n(of unpruned)")
    below.set_xlabel("paid evaluations")
    below.set_ylim(bottom=0)
    below.legend(fontsize=8, loc="upper right")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    return png(figure)


def front_png(
    points: Sequence[tuple[float, float, float, bool]],
    unpruned: float,
    workload: str,
    metric: str = "accuracy",
) -> bytes:
    """A front as a PNG file: accuracy against SynOps, and the target that each network had.

    Args:
        points: target, SynOps fraction, accuracy, and whether the target is kept, on test.
        unpruned: accuracy of the unpruned network on test.
        workload: its name, for the title.
        metric: what the accuracies are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    ordered, width = sorted(points, key=lambda point: point[1]), 1.1 * max(p[0] for p in points)
    axes.plot([p[1] for p in ordered], [p[2] for p in ordered], color=FEASIBLE, linewidth=1)
    for target, fraction, accuracy, kept in ordered:
        axes.axvline(target, color=TARGET, linewidth=1, zorder=1)
        color, marker = (FEASIBLE, "o") if kept else (TARGET, "X")
        axes.scatter(fraction, accuracy, color=color, s=44, zorder=4, marker=marker)
        # A front rises, so there is room above on the left, and below on the right.
        left = fraction > 0.25 * width
        axes.annotate(
            f"{accuracy:.3f} at {fraction:.3f}" + ("" if kept else " (broken)"),
            (fraction, accuracy),
            xytext=(-9, 5) if left else (9, -5),
            textcoords="offset points",
            ha="right" if left else "left",
            va="bottom" if left else "top",
            fontsize=8,
            zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axes.axhline(unpruned, color=INFEASIBLE, linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        f"unpruned {unpruned:.3f}",
        (0.0, unpruned),
        xytext=(4, 2),
        textcoords="offset points",
        fontsize=8,
        color="#666666",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
    axes.plot([], [], color=TARGET, linewidth=1, label="targets")
    axes.set(
        xlim=(0, width),
        xlabel="SynOps on test (of unpruned)",
        ylabel=f"{metric} on test after fine-tuning",
        title=f"{workload}: one network for each target",
    )
    axes.margins(y=0.15)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return png(figure)
