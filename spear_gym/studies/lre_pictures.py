"""Pictures of a study of SynOps estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spear_gym.lre import Sample
    from spear_gym.lre.analysis import FitPoint, LayerDrift

COLORS = {
    "linear": "#c1121f",
    "proportional": "#e9a820",
    "quadratic": "#7b2cbf",
    "per-layer": "#2a6f97",
    "trees": "#588157",
    "mlp": "#0aa5a8",
    "gp": "#6d4c41",
    "none": "#777777",
}


def fit_curves_figure(curves: Mapping[str, Sequence[FitPoint]]) -> Figure:
    """Held-out error against the number of samples, one panel per workload.

    Args:
        curves: points by workload.
    """
    figure, panels = _panels(len(curves))
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        control = next(point for point in points if point.family == "none")
        axes.axhline(control.error, color=COLORS["none"], linestyle="--", label="no prediction")
        for family, color in COLORS.items():
            own = [point for point in points if point.family == family and point.samples]
            if own:
                sizes = [point.samples for point in own]
                axes.plot(
                    sizes,
                    [p.error for p in own],
                    color=color,
                    marker="o",
                    markersize=3,
                    linewidth=2.2 if family == "linear" else 1.2,
                    label=family,
                )
                if family == "linear":
                    low, high = [p.low for p in own], [p.high for p in own]
                    axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xscale="log", title=name, xlabel="samples fitted to")
        ticks = sorted({point.samples for point in points if point.samples})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 4 * control.error)
    panels[0].set_ylabel("mean absolute error held out\n(of the unpruned SynOps)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=8, loc="outside lower center", frameon=False)
    return figure


def relation_figure(pools: Mapping[str, Sequence[Sample]]) -> Figure:
    """SynOps after fine-tuning less those before, against those before, one panel per workload.

    Args:
        pools: samples by workload.
    """
    figure, panels = _panels(len(pools))
    for axes, (name, samples) in zip(panels, pools.items(), strict=True):
        good = [sample for sample in samples if not sample.failed]
        x = np.array([sample.scored for sample in good])
        drift = np.array([sample.finetuned for sample in good]) - x
        axes.scatter(x, drift, s=9, color=COLORS["per-layer"], alpha=0.7)
        slope, intercept = np.polyfit(x, drift, 1)
        ends = np.array([x.min(), x.max()])
        label = f"after = {1 + slope:.3f} before {intercept:+.3f}"
        axes.plot(ends, slope * ends + intercept, color=COLORS["linear"], label=label)
        axes.axhline(0, color=COLORS["none"], linestyle="--", linewidth=1)
        axes.set(title=name, xlabel="SynOps before fine-tuning (of unpruned)")
        axes.legend(fontsize=8, loc="best", frameon=False)
    panels[0].set_ylabel("SynOps after less before")
    return figure


def drift_figure(
    drifts: Mapping[str, Sequence[LayerDrift]], names: Mapping[str, Sequence[str]]
) -> Figure:
    """Factor by which each layer's SynOps change, and its spread, one panel per workload.

    Args:
        drifts: layers by workload.
        names: of all connection layers, by workload.
    """
    figure, panels = _panels(len(drifts))
    for axes, (name, layers) in zip(panels, drifts.items(), strict=True):
        at = [drift.layer for drift in layers]
        axes.errorbar(
            at,
            [drift.factor for drift in layers],
            yerr=[drift.factor_spread for drift in layers],
            fmt="o",
            color=COLORS["per-layer"],
            capsize=3,
        )
        axes.axhline(1, color=COLORS["none"], linestyle="--", linewidth=1)
        axes.set(title=name, xticks=at)
        axes.set_xticks(at, [names[name][layer] for layer in at], rotation=30, fontsize=8)
    panels[0].set_ylabel("SynOps after / before\n(mean and spread over plans)")
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 3.6 * count), 3.8), dpi=100, layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
