"""The picture of a score study: score against accuracy after fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear_gym.report.search_pictures import png
from spear_gym.simulation.simulate import SCORINGS

if TYPE_CHECKING:
    from spear_gym.studies.score import ScoreStudy

COLORS = {"fixed": "#c1121f", "spread": "#2a6f97"}


def score_png(study: ScoreStudy) -> bytes:
    """One panel per scoring, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(SCORINGS), sharey=True)
    for axes, scoring in zip(panels, SCORINGS, strict=True):
        for group, color in COLORS.items():
            mine = [p for p in study.plans if p.scoring == scoring and p.group == group]
            row = next(v for v in study.validity if (v.scoring, v.group) == (scoring, group))
            where = f"near {study.fraction:g} of SynOps" if group == "fixed" else "all sizes"
            axes.scatter(
                [p.score for p in mine],
                [p.accuracy for p in mine],
                s=18,
                color=color,
                alpha=0.8,
                label=f"{where}: ρ = {row.spearman:.2f} [{row.low:.2f}, {row.high:.2f}]",
            )
        axes.set_title(scoring, fontsize=10)
        axes.set_xlabel("score: accuracy before fine-tuning")
        axes.legend(fontsize=7, loc="lower right")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy after fine-tuning (search)")
    figure.suptitle(f"{study.workload}: does the score predict what fine-tuning reaches?")
    return png(figure)
