"""Pictures of a comparison: intervals, anytime curves, fronts, plans, performance profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spear_gym.boundary.text import printable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scores = NDArray[np.float64]


class IntervalLike(Protocol):
    """A figure and its interval."""

    @property
    def point(self) -> float: ...  # noqa: D102

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


Band = tuple[Scores, Scores, Scores]
"""Middle, lower and upper curve, of the same shape."""

# Okabe and Ito's colours, told apart by colour-blind readers too; then the same, dashed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c564b")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
INK = 0.9
"""Opacity of all bands of a panel together: those of many agents lie over each other."""


class Style(NamedTuple):
    """How an agent is drawn."""

    color: str
    dash: str
    marker: str


def style(agents: Sequence[str]) -> dict[str, Style]:
    """A colour, a line style and a marker for every agent, the same in all pictures."""
    styles = {}
    for index, agent in enumerate(agents):
        cycle, color = divmod(index, len(COLORS))
        cycle %= len(DASHES)
        styles[agent] = Style(COLORS[color], DASHES[cycle], MARKERS[cycle])
    return styles


Readings = Sequence[IntervalLike | None]
"""One figure in several readings, each of which may be missing."""


def intervals_figure(
    panels: Mapping[str, Mapping[str, Readings]],
    agents: Sequence[str],
    readings: Sequence[str],
    label: str,
    *,
    zero: bool = False,
) -> Figure:
    """Several readings of a figure of every agent, each with its interval; agents from above.

    Args:
        panels: by title and agent; an agent may be missing.
        agents: all agents, for the order and their colours; who is in no panel has no row.
        readings: names of the readings, at most as many as there are markers.
        label: of the axis.
        zero: draw a line at 0, for differences.
    """
    from matplotlib.lines import Line2D

    rows = [agent for agent in agents if any(agent in found for found in panels.values())]
    figure, axes = _grid(len(panels), height=0.9 + 0.16 * len(rows) * (1 + len(readings)) / 2)
    styles = style(agents)
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        if zero:
            ax.axvline(0, color="black", linewidth=0.8)
        for row, agent in enumerate(rows):
            for index, interval in enumerate(found.get(agent, ())):
                if interval is not None:
                    at = row + 0.5 * ((index + 0.5) / len(readings) - 0.5)
                    _mark(ax, interval, at, styles[agent].color, index)
        ax.set_yticks(range(len(rows)), [*map(printable, rows)], fontsize=8)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(label, fontsize=9)
    keys = [
        Line2D([], [], color="black", marker=MARKERS[n], linestyle="", markersize=5,
               markerfacecolor=_face("black", n), label=name)
        for n, name in enumerate(readings)
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _mark(ax: Axes, interval: IntervalLike, at: float, color: str, reading: int) -> None:
    """An interval as a bar (none where it is NaN) and a marker by its reading."""
    ax.plot([interval.low, interval.high], [at, at], color=color, linewidth=2, alpha=0.45)
    marker, face = MARKERS[reading], _face(color, reading)
    ax.plot([interval.point], [at], marker, color=color, markerfacecolor=face, markersize=4.5)


def _face(color: str, reading: int) -> str:
    """The first reading is filled, the others are hollow."""
    return color if reading == 0 else "white"


def curves_figure(panels: Mapping[str, Mapping[str, Band]], agents: Sequence[str]) -> Figure:
    """Anytime curves, one panel per title.

    Args:
        panels: by title and agent: middle, lower and upper curve, each ``(budget,)``.
        agents: all agents, for their colours.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _grid(len(panels))
    styles = style(agents)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        tops, lows = [], []
        for agent, (middle, low, high) in curves.items():
            color, dash, _ = styles[agent]
            spent = np.arange(1, len(middle) + 1)
            ax.plot(spent, middle, color=color, linestyle=dash, linewidth=1.6, label=agent)
            ax.fill_between(spent, low, high, color=color, alpha=_thin(curves), linewidth=0)
            tops.append(float(np.nanmax([middle, high])))
            # The beginning, before a plan keeps the target, would flatten all the rest.
            lows.append(float(middle[len(middle) // 10 :].min()))
        ax.set_title(title, fontsize=10)
        span = max(tops) - min(lows)
        ax.set_ylim(min(lows) - 0.05 * span - 1e-3, max(tops) + 0.05 * span + 1e-3)
        ax.set_xlabel("evaluations spent")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylabel("best score so far")
    _legend(figure, axes)
    return figure


def fronts_figure(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, bool]]]], agents: Sequence[str]
) -> Figure:
    """Accuracy against SynOps after fine-tuning, one point per run; hollow over target.

    Args:
        panels: by title and agent: (SynOps fraction, accuracy, keeps the target).
        agents: all agents, for their colours.
    """
    figure, axes = _grid(len(panels))
    styles = style(agents)
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        for agent, points in runs.items():
            color, _, marker = styles[agent]
            for kept in (True, False):
                some = [(f, a) for f, a, k in points if k is kept]
                face = color if kept else "none"
                x, y = zip(*some, strict=True) if some else ((), ())
                label = agent if kept else None
                ax.scatter(
                    x, y, 22, marker=marker, facecolors=face, edgecolors=color, alpha=0.8,
                    label=label,
                )  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("SynOps after fine-tuning, of unpruned (test)")
        ax.set_ylabel("accuracy (test)")
    _legend(figure, axes)
    return figure


def plans_figure(shares: Mapping[str, Scores], layers: Sequence[str], title: str) -> Figure:
    """Kept share of channels, one row per agent.

    Args:
        shares: by agent, ``(layers,)`` in [0, 1].
        layers: their names.
        title: shown on top.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(1.6 + 0.95 * len(layers), 1.5 + 0.34 * len(shares)), layout="constrained"
    )
    ax = figure.subplots()
    table = np.stack(list(shares.values()))
    image = ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(layers)), [*map(printable, layers)], fontsize=8)
    ax.set_yticks(range(len(shares)), [*map(printable, shares)], fontsize=8)
    for row, column in np.ndindex(*table.shape):
        value = table[row, column]
        ink = "black" if value > 0.6 else "white"
        ax.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(image, ax=ax, label="channels kept", shrink=0.9)
    ax.set_title(title, fontsize=10)
    return figure


def profiles_figure(panels: Mapping[str, Mapping[str, Band]], thresholds: Scores) -> Figure:
    """Share of runs above a normalised accuracy, by title and agent, each ``(thresholds,)``."""
    figure, axes = _grid(len(panels))
    for ax, (title, profiles) in zip(axes, panels.items(), strict=True):
        styles = style(list(profiles))
        for agent, (shares, low, high) in profiles.items():
            color, dash, _ = styles[agent]
            ax.fill_between(
                thresholds, low, high, step="pre", color=color, alpha=_thin(profiles), linewidth=0
            )
            ax.step(thresholds, shares, color=color, linestyle=dash, linewidth=1.6, label=agent)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("normalised accuracy after fine-tuning (test)")
        ax.set_ylabel("share of runs above")
        ax.set_ylim(0, 1)
    _legend(figure, axes)
    return figure


def sensitivity_figure(
    accuracy: Mapping[str, IntervalLike], violations: Mapping[str, IntervalLike], label: str
) -> Figure:
    """Accuracy and share of runs over target by variant, each with its interval.

    Args:
        accuracy: by variant.
        violations: by the same variants.
        label: what is varied.
    """
    figure, axes = _grid(2)
    titles = ("accuracy after fine-tuning (test)", "runs over target")
    for ax, intervals, title in zip(axes, (accuracy, violations), titles, strict=True):
        names = list(intervals)
        points = np.array([interval.point for interval in intervals.values()])
        low = points - [interval.low for interval in intervals.values()]
        high = [interval.high for interval in intervals.values()] - points
        color = COLORS[0]
        ax.errorbar(names, points, yerr=[low, high], fmt="o", color=color, capsize=3)
        ax.set_xlabel(label)
        ax.set_title(title, fontsize=10)
        ax.margins(x=0.15)
    axes[1].set_ylim(-0.03, 1.03)
    return figure


def _thin(bands: Sized) -> float:
    """Opacity of one of several bands."""
    return min(0.12, INK / (2 + len(bands)))


def _grid(panels: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(2, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, height * rows + 0.8), layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    for ax in axes[panels:]:
        ax.set_visible(False)
    for ax in axes[:panels]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes[:panels]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries: dict[str, Artist] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries.update(zip(map(str, labels), handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(4, len(entries)),
        fontsize=8,
        frameon=False,
    )
