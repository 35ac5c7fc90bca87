"""A plan in the making, as text and as a picture: what `env.render()` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spear_gym.boundary.text import printable
from spear_gym.report.drawing import in_plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT, REMOVED, UNDECIDED = "#2a6f97", "#e0e0e0", "#a9c6d8"
SPENT, OPEN, TARGET, RATE = "#2a6f97", "#d8e6ee", "#c1121f", "#e07a1f"


@dataclass(frozen=True, slots=True)
class LayerView:
    """One prunable group.

    Attributes:
        name: the group.
        channels: unpruned channels.
        kept: channels kept, ``None`` while undecided.
        input_rate: measured firing rate of its input, ``None`` while unknown.
    """

    name: str
    channels: int
    kept: int | None
    input_rate: float | None


@dataclass(frozen=True, slots=True)
class PlanView:
    """Everything a picture of a plan shows; SynOps as fractions of the unpruned network."""

    workload: str
    layers: tuple[LayerView, ...]
    committed: float
    still_open: float
    target: float
    predicted: float | None = None
    accuracy: float | None = None
    reward: float | None = None
    metric: str = "accuracy"

    @property
    def headline(self) -> str:
        """One line: how far the episode is, or its result."""
        if self.accuracy is None:
            decided = sum(layer.kept is not None for layer in self.layers)
            return f"{self.workload}: {decided} of {len(self.layers)} groups decided"
        return (
            f"{self.workload}: {self.metric} {self.accuracy:.3f}, predicted SynOps "
            f"{self.predicted:.3f} of target {self.target:.3f}, reward {self.reward:.3f}"
        )


def print_plan(view: PlanView) -> str:
    """The plan as fixed-width text."""
    names = [printable(layer.name, keep="") for layer in view.layers]
    width = max(map(len, names))
    lines = [printable(view.headline, keep="")]
    for name, layer in zip(names, view.layers, strict=True):
        kept = layer.channels if layer.kept is None else layer.kept
        filled = round(24 * kept / layer.channels)
        mark = "?" if layer.kept is None else "#"
        rate = "     -" if layer.input_rate is None else f"{layer.input_rate:6.3f}"
        count = "undecided" if layer.kept is None else f"{layer.kept}/{layer.channels}"
        bar = mark * filled + "." * (24 - filled)
        lines.append(f"{name:<{width}}  [{bar}] {count:>9}  input rate {rate}")
    lines.append(
        f"SynOps: {view.committed:.3f} settled + {view.still_open:.3f} open (unpruned), "
        f"target {view.target:.3f}"
    )
    return "\n".join(lines)


def plan_figure(view: PlanView) -> Figure:
    """The plan as a matplotlib figure: widths, firing rates, SynOps against the target."""
    from matplotlib.figure import Figure

    rows = len(view.layers)
    figure = Figure(figsize=(8.0, 2.1 + 0.42 * rows), dpi=100, layout="constrained")
    widths, rates, budget = figure.subplot_mosaic(
        [["widths", "rates"], ["budget", "budget"]],
        width_ratios=[2.2, 1],
        height_ratios=[max(rows, 2), 1.1],
    ).values()
    _draw_widths(widths, view)
    _draw_rates(rates, view)
    _draw_budget(budget, view)
    figure.suptitle(view.headline, fontsize=11)
    return in_plain_text(figure)


def _draw_widths(axes, view: PlanView) -> None:  # type: ignore[no-untyped-def]
    for row, layer in enumerate(view.layers):
        axes.barh(row, layer.channels, color=REMOVED, height=0.7)
        kept = layer.channels if layer.kept is None else layer.kept
        color = UNDECIDED if layer.kept is None else KEPT
        axes.barh(row, kept, color=color, height=0.7)
        text = "undecided" if layer.kept is None else f"{layer.kept} of {layer.channels}"
        axes.text(layer.channels, row, f"  {text}", va="center", fontsize=9)
    axes.set_yticks(range(len(view.layers)), [printable(layer.name) for layer in view.layers])
    axes.set_xlim(0, 1.35 * max(layer.channels for layer in view.layers))
    axes.invert_yaxis()
    axes.set_title("channels kept (dark) and removed (grey)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_rates(axes, view: PlanView) -> None:  # type: ignore[no-untyped-def]
    known = [(row, v.input_rate) for row, v in enumerate(view.layers) if v.input_rate is not None]
    axes.barh([row for row, _ in known], [rate for _, rate in known], color=RATE, height=0.7)
    for row, rate in known:
        axes.text(rate, row, f" {rate:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(view.layers)), [""] * len(view.layers))
    axes.set_ylim(len(view.layers) - 0.5, -0.5)
    axes.set_xlim(0, max(0.5, *(1.25 * rate for _, rate in known)) if known else 1)
    axes.set_title("measured rate of the input", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_budget(axes, view: PlanView) -> None:  # type: ignore[no-untyped-def]
    axes.barh(0, view.committed, color=SPENT, label="settled, measured")
    axes.barh(0, view.still_open, left=view.committed, color=OPEN, label="open, unpruned")
    axes.axvline(view.target, color=TARGET, linewidth=2, label="target")
    if view.predicted is not None:
        axes.plot(view.predicted, 0, "D", color="black", label="predicted after fine-tuning")
    axes.set_xlim(0, max(1.05, view.committed + view.still_open))
    axes.set_yticks([])
    axes.set_xlabel("SynOps, fraction of the unpruned network", fontsize=9)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.75), ncols=4, fontsize=8, frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
