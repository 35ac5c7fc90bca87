"""A traced network as a picture: one row an operation, coloured by its group of channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spear_gym.report.drawing import saved
from spear_gym.report.network_view import NetworkView, OperationView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOFTWARE = "spear inspect"
"""Stands in the files, so that they are recognised."""

COLORS = (
    "#8ecae6", "#ffb703", "#a7c957", "#e5989b", "#b8a1d9", "#f4a261", "#7bdcb5", "#d6c28f",
)  # fmt: skip
FIXED, MIXED = "#e3e5e8", "#ffffff"
ROW = 0.3
"""Inches of a row."""
LANES = 6
"""Columns for lines past other rows; more of them share."""


def network_png(view: NetworkView) -> bytes:
    """The network as a PNG file."""
    from matplotlib.figure import Figure

    rows = len(view.operations)
    figure = Figure(figsize=(11, 1.6 + ROW * rows), dpi=110, layout="constrained")
    graph, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    colors = {group.name: COLORS[i % len(COLORS)] for i, group in enumerate(view.groups)}
    place = {operation.name: row for row, operation in enumerate(view.operations)}
    for row, operation in enumerate(view.operations):
        _box(graph, row, operation, view, colors)
    _lines(graph, view, place)
    _bars(bars, view)
    graph.set_xlim(-0.9, 10)
    graph.set_ylim(rows - 0.3, -1)
    graph.axis("off")
    graph.set_title(
        "one colour: kept or removed together; grey: never pruned; white: of several groups",
        fontsize=8.5, loc="left",
    )  # fmt: skip
    figure.suptitle(
        f"{view.workload}: {view.num_steps} time steps, {len(view.groups)} groups of channels, "
        f"{view.synops:,.0f} SynOps a sample",
        fontsize=11,
    )
    return saved(figure, "png", metadata={"Software": SOFTWARE})


def _box(
    axes: Axes, row: int, operation: OperationView, view: NetworkView, colors: dict[str, str]
) -> None:
    from matplotlib.patches import FancyBboxPatch

    fixed = {each.name for each in view.fixed}
    color = colors.get(operation.group or "", FIXED if _is_fixed(operation, fixed) else MIXED)
    box = FancyBboxPatch(
        (0, row - 0.36), 6.2, 0.72, boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=color, edgecolor="#5b6470", linewidth=0.7,
    )  # fmt: skip
    axes.add_patch(box)
    shape = "x".join(map(str, operation.shape))
    kind = operation.kind.partition("(")[0]
    axes.text(0.12, row, operation.name, va="center", fontsize=8.5, fontweight="bold")
    axes.text(3.3, row, kind, va="center", fontsize=8, color="#30363d")
    axes.text(6.08, row, shape, va="center", ha="right", fontsize=8, color="#30363d")
    note = _note(operation, view)
    if note:
        axes.text(6.35, row, note, va="center", fontsize=7.5, color="#30363d")


def _is_fixed(operation: OperationView, fixed: set[str]) -> bool:
    return operation.group is None and operation.name in fixed


def _note(operation: OperationView, view: NetworkView) -> str:
    """What is said beside a row: of a group at its first member, of fixed channels why."""
    for group in view.groups:
        if group.name == operation.name:
            blocks = f", in {group.blocks} blocks" if group.blocks > 1 else ""
            tied = f" (with {', '.join(group.members[1:])})" if group.ties else ""
            return _short(f"group of {group.channels}{blocks}{tied}")
    for each in view.fixed:
        if each.name == operation.name:
            return _short(f"fixed: {each.reason}")
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _lines(axes: Axes, view: NetworkView, place: dict[str, int]) -> None:
    """From each operation to its readers: down to the next row, or past others at the left."""
    taken: list[list[tuple[int, int]]] = []
    for row, operation in enumerate(view.operations):
        for source in operation.reads:
            start = place[source]
            if start == row - 1:
                axes.annotate(
                    "", (0.5, row - 0.36), (0.5, start + 0.36),
                    arrowprops={"arrowstyle": "-|>", "color": "#5b6470", "lw": 0.8, "shrinkA": 0,
                                "shrinkB": 0, "mutation_scale": 6},
                )  # fmt: skip
                continue
            lane = _lane(taken, start, row)
            left = -0.16 - 0.12 * (lane % LANES)
            axes.plot([0, left, left], [start, start, row], color="#5b6470", lw=0.8)
            axes.annotate(
                "", (0, row), (left, row),
                arrowprops={"arrowstyle": "-|>", "color": "#5b6470", "lw": 0.8, "shrinkA": 0,
                            "shrinkB": 0, "mutation_scale": 6},
            )  # fmt: skip


def _lane(taken: list[list[tuple[int, int]]], start: int, end: int) -> int:
    """A column in which nothing else runs between two rows, or touches them."""
    for lane, spans in enumerate(taken):
        if all(end < low or start > high for low, high in spans):
            spans.append((start, end))
            return lane
    taken.append([(start, end)])
    return len(taken) - 1


def _bars(axes: Axes, view: NetworkView) -> None:
    rows: list[int] = []
    synops: list[float] = []
    for row, operation in enumerate(view.operations):
        if operation.synops is not None:
            rows.append(row)
            synops.append(operation.synops)
            said: Any = f"{operation.synops:,.0f}"
            if operation.macs:
                said = f"{operation.macs:,.0f} MACs"
            axes.text(operation.synops, row, f" {said}", va="center", fontsize=7.5)
    axes.barh(rows, synops, height=0.6, color="#2a6f97")
    axes.set_xlim(0, 1.45 * max([*synops, 1.0]))
    axes.set_title("SynOps a sample on search", fontsize=8.5)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(axis="y", left=False, labelleft=False)
