"""The report of a sensitivity study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spear_gym.agents import make_agent
from spear_gym.agents.base import AgentError
from spear_gym.boundary.files import write_text
from spear_gym.env.observation import MEASURED
from spear_gym.report.comparison_pictures import sensitivity_figure
from spear_gym.report.page import Page, Picture, Section, Table, csv_text, write_page

from .analysis import AgentFigures, Analysis
from .records import accuracy_of
from .report import settings_table
from .run import Comparison
from .sensitivity import DEFAULT, OBSERVATION, PENALTY, SCORING, Variant
from .statistics import (
    FEWEST_SEEDS,
    TOO_NARROW,
    Interval,
    holm,
    permutation_p,
    task_mean_difference,
)
from .tables import ABSENT, count, kept_text, p_text, rate

COLUMNS = (
    "runs", "test accuracy, all runs", "minus default", "p", "p, Holm", "test accuracy, kept runs",
    "over target", "SynOps / target", "best score", "evaluations to 95 % of the variant's best",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A variant's figures, and how far it is from the default.

    Attributes:
        variant: what is varied.
        figures: of its runs.
        difference: of test accuracy over all runs, ``None`` for the default itself.
        p: of a permutation within tasks.
    """

    variant: Variant
    figures: AgentFigures
    difference: Interval | None
    p: float | None


def write_study_report(
    study: Sequence[Variant], comparisons: Sequence[Comparison], folder: Path, *, svg: bool = False
) -> list[Path]:
    """Writes the report of a study: ``report.html``, ``report.md``, ``figures/``, ``study.csv``.

    Args:
        study: its variants.
        comparisons: one of each.
        folder: where to.
        svg: pictures as SVG, too.

    Returns:
        The files.

    Raises:
        AgentError: when no cell of the default finished.
    """
    (agent,) = study[0].settings.agents
    usual = next(c for v, c in zip(study, comparisons, strict=True) if v.name == DEFAULT)
    rows = _rows(agent, study, comparisons, usual)
    files = write_page(_page(agent, rows, usual), folder, svg=svg)
    lines = [
        (row.variant.study, row.variant.name, *cells)
        for kind in (PENALTY, OBSERVATION, SCORING)
        for row, cells in _with_cells(rows, kind)
    ]
    write_text(folder / "study.csv", csv_text(("study", "variant", *COLUMNS), lines))
    return [*files, folder / "study.csv"]


def _rows(
    agent: str, study: Sequence[Variant], comparisons: Sequence[Comparison], usual: Comparison
) -> list[Row]:
    default = Analysis(usual)
    if default.figures(agent) is None:
        raise AgentError(f"no cell of the default finished, with which {agent} would be compared")
    rows = []
    for variant, comparison in zip(study, comparisons, strict=True):
        analysis = Analysis(comparison)
        figures = analysis.figures(agent) if analysis.tasks == default.tasks else None
        if figures is None:
            continue
        difference, p = None, None
        if variant.settings != usual.settings:
            x, y = (a.strata(agent, a.tasks, accuracy_of) for a in (analysis, default))
            difference, p = task_mean_difference(x, y), permutation_p(x, y)
        rows.append(Row(variant, figures, difference, p))
    return rows


def _page(agent: str, rows: Sequence[Row], default: Comparison) -> Page:
    settings = default.settings
    sections = [
        Section(
            "What was varied",
            [
                f"One thing at a time, with the agent {agent}; the rest as in the table below. "
                "Test accuracy and SynOps are those after fine-tuning. Figures are means over runs "
                "(over tasks of the tasks' means, if there are several) with 95 % bootstrap "
                f"intervals over seeds, networks fixed. {TOO_NARROW} Kept runs are those that keep "
                "the target. "
                "p: two-sided, labels permuted within tasks; Holm: corrected for the variants of "
                "the table. Each variant's best is its own, so evaluations to it do not compare "
                "how good it is.",
                "The weight of the penalty changes what a learning agent is taught, and never "
                "which of the plans it tried is taken: that is always the most accurate one "
                "predicted to keep the target.",
            ],
            [settings_table(default)],
            warning=(
                f"Only {settings.seeds} seeds: with fewer than {FEWEST_SEEDS} the intervals "
                "say little."
                if settings.seeds < FEWEST_SEEDS
                else ""
            ),
        ),
        _section("Weight of the penalty", PENALTY, rows, "lambda", behind_a_floor(agent)),
        _section("Measured features of the observation", OBSERVATION, rows, "observation"),
        _section("Way of scoring", SCORING, rows, "scoring"),
    ]
    return Page(f"Sensitivity of {agent} on {', '.join(settings.workloads)}", sections)


def behind_a_floor(agent: str) -> str:
    """What an agent does to rewards before it learns from them, if it says so in its settings."""
    settings = getattr(make_agent(agent), "settings", None)
    floor, clip = (getattr(settings, name, None) for name in ("reward_floor", "reward_clip"))
    if floor is None or clip is None:
        return ""
    above = "Q" if floor == 0 else f"(Q - {floor:g})"
    return (
        f"{agent} raises every reward below {floor:g} to {floor:g} and cuts it {clip:g} away from "
        "its moving average before it learns from it. So the weight was varied behind that floor: "
        f"a plan of accuracy Q teaches the same from SynOps / target = 1 + {above} / lambda on, "
        "and the weight only moves where that begins. What the scale of an unfloored reward does "
        "is not shown here."
    )


def _section(title: str, study: str, rows: Sequence[Row], head: str, note: str = "") -> Section:
    own = _with_cells(rows, study)
    texts = {
        PENALTY: "R = accuracy - lambda * max(0, predicted SynOps / target - 1).",
        OBSERVATION: f"Without them, {', '.join(MEASURED)} are shown to the agent as 0.",
        SCORING: "Scores of different ways are not on one scale; accuracy after fine-tuning is, "
        "though it starts from the network as it was scored.",
    }
    table = Table((head, *COLUMNS), [(row.variant.name, *cells) for row, cells in own])
    accuracy = {row.variant.name: row.figures.accuracy for row, _ in own}
    violations = {row.variant.name: row.figures.violations for row, _ in own}
    picture = Picture(
        study,
        sensitivity_figure(accuracy, violations, head),
        f"{title}: test accuracy after fine-tuning of all runs, and the share of runs over "
        "target, with 95 % intervals.",
    )
    usual = [row.variant.name for row, _ in own if row.difference is None]
    told = [apart(usual[0], accuracy)] if usual else []
    notes = [note] if note else []
    return Section(title, [texts[study], *notes, *told], [table], [picture])


def apart(default: str, accuracy: Mapping[str, Interval]) -> str:
    """Which variants' intervals of accuracy do not overlap the default's, in words."""
    usual = accuracy[default]
    others = [
        n for n, found in accuracy.items() if found.low > usual.high or found.high < usual.low
    ]
    if others:
        return (
            f"The interval of test accuracy (all runs) of {', '.join(others)} lies apart from that "
            f"of {default}, the default."
        )
    return (
        f"No interval of test accuracy (all runs) lies apart from that of {default}, the default: "
        "no difference is shown, and no equality either."
    )


def _with_cells(rows: Sequence[Row], study: str) -> list[tuple[Row, tuple[str, ...]]]:
    """The rows of one study and their cells; p values are corrected for its variants."""
    own = [row for row in rows if row.variant.study == study]
    corrected = holm({row.variant.name: row.p for row in own if row.p is not None})
    return [(row, _cells(row, corrected.get(row.variant.name))) for row in own]


def _cells(row: Row, corrected: float | None) -> tuple[str, ...]:
    f, (share, median) = row.figures, row.figures.reached[0]
    return (
        str(f.runs),
        str(f.accuracy),
        ABSENT if row.difference is None else row.difference.text("{:+.3f}"),
        ABSENT if row.p is None else p_text(row.p),
        ABSENT if corrected is None else p_text(corrected),
        kept_text(f),
        rate(f.violations),
        f"{f.load:.3f}",
        str(f.score),
        f"{count(median)} ({share:.0%} of runs)",
    )
