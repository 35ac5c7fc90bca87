"""How much a search depends on what it was given: the penalty, the observation, the scoring.

One thing is varied at a time; everything else stays as the study was asked for. Every variant is a
comparison of one agent in a folder of its own, so it resumes and is kept as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from spear_gym.agents.base import AgentError
from spear_gym.files import number_in_name, write_text
from spear_gym.observation import MEASURED
from spear_gym.report.comparison_pictures import sensitivity_figure
from spear_gym.report.page import Page, Picture, Section, Table, csv_text, write_page
from spear_gym.reward import make_reward
from spear_gym.simulation.simulate import Scoring
from spear_gym.workload import Workload

from .analysis import AgentFigures, Analysis
from .cells import CompareSettings
from .report import count, settings_table
from .run import Comparison, OnCell, compare
from .statistics import FEWEST_SEEDS, Interval

LAMBDAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)

PENALTY, OBSERVATION, SCORING = "penalty", "observation", "scoring"
DEFAULT = "all features"
"""The variant of the observation in which nothing is varied."""


@dataclass(frozen=True)
class Variant:
    """What is varied, and to what.

    Attributes:
        study: ``"penalty"``, ``"observation"`` or ``"scoring"``.
        name: of this value.
        settings: of its comparison.
    """

    study: str
    name: str
    settings: CompareSettings

    def folder(self, top: Path) -> Path:
        """Where its cells are; variants with equal settings share them."""
        given = self.settings
        parts = [
            *(
                f"{key} {number_in_name(value)}"
                for key, value in sorted(given.reward_settings.items())
            ),
            f"hidden {len(given.hidden_features)}",
            f"scoring {given.scoring or 'default'}",
        ]
        return top / " ".join(parts)


def variants(
    base: CompareSettings, workloads: Mapping[str, Workload], lambdas: Sequence[float] = LAMBDAS
) -> list[Variant]:
    """All variants of a study.

    Args:
        base: one agent with its workloads, targets, seeds and budget; its reward must have a
            penalty weight ``lam``.
        workloads: those of ``base``.
        lambdas: penalty weights.

    Raises:
        AgentError: for several agents, a penalty weight given twice, or none.
        RewardError: for a weight that the reward does not take.
    """
    if len(base.agents) != 1:
        raise AgentError(f"agents are {', '.join(base.agents)}; the study varies one agent")
    if not lambdas or len(set(lambdas)) < len(lambdas):
        raise AgentError(f"lambdas are {list(lambdas)}; give each once, and at least one")
    shape = make_reward(base.reward, base.reward_settings)
    base = _with_penalty(base, getattr(shape, "lam", 1.0))  # refused where there is no such weight
    found = [Variant(PENALTY, f"{weight:g}", _with_penalty(base, weight)) for weight in lambdas]
    found.append(Variant(OBSERVATION, DEFAULT, base))
    hidden = replace(base, hidden_features=MEASURED)
    found.append(Variant(OBSERVATION, "without measured features", hidden))
    usual = {workload.scoring for workload in workloads.values()}
    for scoring in get_args(Scoring):
        given = base if usual == {scoring} else replace(base, scoring=scoring)
        found.append(Variant(SCORING, scoring, given))
    return found


def _with_penalty(base: CompareSettings, weight: float) -> CompareSettings:
    """With the weight spelt out, so that the default and the same weight by name share cells."""
    reward_settings = base.reward_settings | {"lam": float(weight)}
    make_reward(base.reward, reward_settings)
    return replace(base, reward_settings=reward_settings)


def run_study(
    study: Sequence[Variant],
    workloads: Mapping[str, Workload],
    top: Path,
    *,
    workers: int = 1,
    on_cell: OnCell | None = None,
) -> list[Comparison]:
    """Runs what is missing of a study; one comparison per variant.

    Raises:
        ValueError: a subclass that names what does not fit.
    """
    done: dict[Path, Comparison] = {}
    for variant in study:
        folder = variant.folder(top)
        if folder not in done:
            done[folder] = compare(
                variant.settings, workloads, folder, workers=workers, on_cell=on_cell
            )
    return [done[variant.folder(top)] for variant in study]


COLUMNS = (
    "runs", "test accuracy, target kept", "over target", "test accuracy, all runs",
    "distance from target", "best score", "evaluations to 95 % of the variant's best",
)  # fmt: skip


def write_study(
    study: Sequence[Variant], comparisons: Sequence[Comparison], folder: Path
) -> list[Path]:
    """Writes the report of a study: ``report.html``, ``report.md``, ``figures/``, ``study.csv``.

    Raises:
        StatisticsError: when some variant has no finished cell.
    """
    (agent,) = study[0].settings.agents
    analyses = [Analysis(comparison) for comparison in comparisons]
    found = [analysis.figures(agent) for analysis in analyses]
    rows = [(v, f) for v, f in zip(study, found, strict=True) if f is not None]
    default = next(c for v, c in zip(study, comparisons, strict=True) if v.name == DEFAULT)
    files = write_page(_page(agent, rows, default), folder)
    lines = [(v.study, v.name, *_row(f)) for v, f in rows]
    write_text(folder / "study.csv", csv_text(("study", "variant", *COLUMNS), lines))
    return [*files, folder / "study.csv"]


def _page(agent: str, rows: Sequence[tuple[Variant, AgentFigures]], default: Comparison) -> Page:
    settings = default.settings
    sections = [
        Section(
            "What was varied",
            [
                f"One thing at a time, with the agent {agent}; the rest as in the table below. "
                "Test accuracy and SynOps are those after fine-tuning. Figures are interquartile "
                "means over runs and tasks with 95 % bootstrap intervals over seeds, networks "
                "fixed. The weight of the penalty changes what a learning agent is taught, and "
                "never which of the plans it tried is taken: that is always the most accurate "
                "one predicted to keep the target."
            ],
            [settings_table(default)],
            warning=(
                f"Only {settings.seeds} seeds: with fewer than {FEWEST_SEEDS} the intervals "
                "say little."
                if settings.seeds < FEWEST_SEEDS
                else ""
            ),
        ),
        _section("Weight of the penalty", PENALTY, rows, "lambda", settings),
        _section(
            "Measured features of the observation", OBSERVATION, rows, "observation", settings
        ),
        _section("Way of scoring", SCORING, rows, "scoring", settings),
    ]
    return Page(f"Sensitivity of {agent} on {', '.join(settings.workloads)}", sections)


def _section(
    title: str,
    study: str,
    rows: Sequence[tuple[Variant, AgentFigures]],
    head: str,
    default: CompareSettings,
) -> Section:
    own = [(variant.name, figures) for variant, figures in rows if variant.study == study]
    usual = [v.name for v, _ in rows if v.study == study and v.settings == default]
    texts = {
        PENALTY: "R = accuracy - lambda * max(0, predicted SynOps / target - 1).",
        OBSERVATION: f"Without them, {', '.join(MEASURED)} are shown to the agent as 0.",
        SCORING: "Scores of different ways are not on one scale; accuracy after fine-tuning is, "
        "though it starts from the network as it was scored.",
    }
    table = Table((head, *COLUMNS), [(name, *_row(figures)) for name, figures in own])
    accuracy = {name: figures.accuracy for name, figures in own}
    violations = {name: figures.violations for name, figures in own}
    picture = Picture(
        study,
        sensitivity_figure(accuracy, violations, head),
        f"{title}: test accuracy after fine-tuning of all runs, and the share of runs over "
        "target, with 95 % intervals.",
    )
    told = [apart(usual[0], accuracy)] if usual else []
    return Section(title, [texts[study], *told], [table], [picture])


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


def _row(f: AgentFigures) -> tuple[str, ...]:
    rate, (share, median) = f.violations, f.reached[0]
    return (
        str(f.runs),
        "–" if f.kept_accuracy is None else str(f.kept_accuracy),
        f"{rate.point:.0%} [{rate.low:.0%}, {rate.high:.0%}]",
        str(f.accuracy),
        f"{f.distance:.3f}",
        str(f.score),
        f"{count(median)} ({share:.0%} of runs)",
    )
