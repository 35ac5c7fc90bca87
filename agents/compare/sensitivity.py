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
from spear_gym.agents.folders import RunError, read_json
from spear_gym.boundary.files import number_in_name, write_json
from spear_gym.env.observation import MEASURED
from spear_gym.simulation.simulate import Scoring
from spear_gym.workload import Workload

from .cells import CompareSettings
from .run import ARCHIVE, Comparison, OnCell, compare

LAMBDAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)

PENALTY, OBSERVATION, SCORING = "penalty", "observation", "scoring"
DEFAULT = "all features"
"""The variant of the observation in which nothing is varied."""
BLIND = "without measured features"

STUDY = "study.json"
STUDY_FORMAT = "spear-gym sensitivity 1"


@dataclass(frozen=True)
class Variant:
    """What is varied, and to what.

    Attributes:
        study: ``"penalty"``, ``"observation"`` or ``"scoring"``.
        name: of this value.
        settings: of its comparison.
        folder_name: of its cells: what is varied, ``penalty=10`` for example. Variants with equal
            settings share it.
    """

    study: str
    name: str
    settings: CompareSettings
    folder_name: str

    def folder(self, top: Path) -> Path:
        """Where its cells are."""
        given = self.settings
        parts = [
            *(
                f"{key} {number_in_name(value)}"
                for key, value in sorted(given.goal.reward_settings.items())
            ),
            f"hidden {len(given.hidden_features)}",
            f"scoring {given.plans.scoring or 'default'}",
        ]
        before = top / " ".join(parts)  # as folders were called until 2026-11-27
        return before if before.is_dir() else top / self.folder_name


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
    shape = base.goal.shape()
    base = _with_penalty(base, getattr(shape, "lam", 1.0))  # refused where there is no such weight
    usual = f"penalty={number_in_name(base.goal.reward_settings['lam'])}"
    found = [
        Variant(
            PENALTY, f"{weight:g}", _with_penalty(base, weight), f"penalty={number_in_name(weight)}"
        )
        for weight in lambdas
    ]
    found.append(Variant(OBSERVATION, DEFAULT, base, usual))
    hidden = replace(base, hidden_features=MEASURED)
    found.append(Variant(OBSERVATION, BLIND, hidden, f"hidden={'+'.join(MEASURED)}"))
    own = {workload.scoring for workload in workloads.values()}
    for scoring in get_args(Scoring):
        if own == {scoring}:
            found.append(Variant(SCORING, scoring, base, usual))
        else:
            given = replace(base, plans=replace(base.plans, scoring=scoring))
            found.append(Variant(SCORING, scoring, given, f"scoring={scoring}"))
    return found


def _with_penalty(base: CompareSettings, weight: float) -> CompareSettings:
    """With the weight spelt out, so that the default and the same weight by name share cells."""
    asked = {**base.goal.reward_settings, "lam": float(weight)}
    goal = replace(base.goal, reward_settings=asked)
    goal.shape()
    return replace(base, goal=goal)


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


def write_study(study: Sequence[Variant], top: Path) -> None:
    """Writes down which folder holds which variant, so that the report needs the archives alone."""
    rows = [
        {"study": v.study, "name": v.name, "folder": v.folder(top).relative_to(top).as_posix()}
        for v in study
    ]
    write_json(top / STUDY, {"format": STUDY_FORMAT, "variants": rows})


def read_study(top: Path) -> tuple[list[Variant], list[Comparison]]:
    """A study from its folder: the variants and the comparison of each.

    Raises:
        RunError: when the list of variants or an archive is missing, damaged or something else.
    """
    path = top / STUDY
    content = read_json(path)
    try:
        if content["format"] != STUDY_FORMAT:
            raise ValueError(f"its format is not '{STUDY_FORMAT}'")
        rows = [(row["study"], row["name"], row["folder"]) for row in content["variants"]]
        if not any(name == DEFAULT for _, name, _ in rows):
            raise ValueError("the default is not among its variants")
        if any(Path(folder).name != folder or folder in ("", "..") for _, _, folder in rows):
            raise ValueError("a variant lies in no folder of its own beside it")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"'{path}' is damaged: {error}") from error
    found = {folder: Comparison.load(top / folder / ARCHIVE) for _, _, folder in rows}
    study = [Variant(kind, name, found[folder].settings, folder) for kind, name, folder in rows]
    return study, [found[folder] for _, _, folder in rows]
