"""A comparison's cells: one search of one agent on one network, target and seed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spear_gym.agents import make_agent
from spear_gym.agents.base import AgentError, check_budget
from spear_gym.agents.folders import RunError, claimed, read_json
from spear_gym.agents.pipeline import finish, search_in_folder
from spear_gym.agents.run_folder import SearchReport, SearchSettings
from spear_gym.boundary.files import file_name, number_in_name, write_json
from spear_gym.env.observation import check_features
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Judge, TargetError
from spear_gym.lre import estimate_of
from spear_gym.settings import DEFAULT_TARGET, Goal, PlanSettings, flat
from spear_gym.workload import Workload

RECORD = "cell.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run once.

    Attributes:
        workload: name or path.
        agent: name or path.
        target: SynOps fraction.
        seed: of the agent and of fine-tuning.
    """

    workload: str
    agent: str
    target: float
    seed: int

    def folder(self, top: Path) -> Path:
        """Its run folder below that of the comparison.

        Raises:
            FileError: when a name cannot be that of a folder.
        """
        place = f"target {number_in_name(self.target)} seed {self.seed}"
        return top.joinpath("cells", *map(file_name, (self.workload, self.agent, place)))

    def __str__(self) -> str:
        return f"{self.agent} on {self.workload}, target {self.target:g}, seed {self.seed}"


@dataclass(frozen=True)
class CompareSettings:
    """What a comparison was asked for.

    Attributes:
        workloads: names or paths; networks of one workload are tasks of their own.
        agents: names or paths.
        targets: SynOps fractions.
        seeds: runs per agent, network and target.
        budget: paid evaluations of each.
        plans: the plans that may be made, and how they are scored; the same for all.
        goal: what they are judged by, but for the target, which is each cell's own.
        hidden_features: observation features that agents see as 0.

    Raises:
        TargetError: for a target in the goal.
    """

    workloads: tuple[str, ...]
    agents: tuple[str, ...]
    targets: tuple[float, ...]
    seeds: int = 5
    budget: int = 200
    plans: PlanSettings = field(default_factory=PlanSettings)
    goal: Goal = field(default_factory=Goal)
    hidden_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.goal.target_synops is not None:
            raise TargetError(
                "a comparison's targets are fractions, for they hold for networks of any size; "
                "give targets in place of target_synops"
            )
        if self.goal.target != DEFAULT_TARGET:
            raise TargetError(
                f"the goal's target is {self.goal.target:g}, which a comparison has no use for; "
                "give targets"
            )

    def to_json(self) -> dict[str, Any]:
        """As an archive holds them.

        What versions before 0.1 could not be asked for stands there only where it is not the
        default, so that equal comparisons give equal archives.

        Raises:
            ValueError: a subclass that names what a file cannot keep.
        """
        values, usual = flat(self), {**asdict(PlanSettings()), **asdict(Goal())}
        added = [name for name in ADDED if values[name] != usual[name]]
        return {name: values[name] for name in (*WRITTEN, *added)}

    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that an unfinished comparison is balanced."""
        grid = itertools.product(range(self.seeds), self.workloads, self.targets, self.agents)
        return [Cell(workload, agent, target, seed) for seed, workload, target, agent in grid]

    def search(self, cell: Cell) -> SearchSettings:
        """The settings of a cell's search."""
        return SearchSettings(
            workload=cell.workload,
            agent=cell.agent,
            plans=self.plans,
            goal=self.goal.at(cell.target),
            budget=self.budget,
            seed=cell.seed,
            hidden_features=self.hidden_features,
        )


WRITTEN = (
    "workloads", "agents", "targets", "seeds", "budget", "reward", "reward_settings", "scoring",
    "lre", "confidence", "hidden_features",
)  # fmt: skip
"""Names of the settings in an archive, in the order of its first version."""

ADDED = (
    "precision", "criterion", "channel_multiple", "min_channels", "max_ratio", "extrapolate",
    "exclude",
)  # fmt: skip
"""Further names, which came later."""


@dataclass
class Bench:
    """What cells are run with; a worker process keeps it from cell to cell.

    Attributes:
        settings: of the comparison.
        workloads: by name.
        top: folder of the comparison.
        storage: of the ledgers, each cell's own folder by default.
        evaluators: by workload. Cells share the answers, never the budget.
    """

    settings: CompareSettings
    workloads: Mapping[str, Workload]
    top: Path
    storage: str | None = None
    evaluators: dict[str, PlanEvaluator] = field(default_factory=dict)

    def evaluator(self, name: str) -> PlanEvaluator:
        """The evaluator of a workload."""
        if name not in self.evaluators:
            self.evaluators[name] = self.settings.plans.evaluator(self.workloads[name])
        return self.evaluators[name]

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """What answers depend on, by workload; ``data`` is the hash of its splits alone."""
        return {
            name: {
                **{key: str(value) for key, value in self.evaluator(name).fingerprint().items()},
                "data": workload.splits.sha256(),
            }
            for name, workload in self.workloads.items()
            if name in self.settings.workloads
        }

    def judge(self, cell: Cell) -> Judge:
        """The judge of a cell."""
        return self.settings.goal.at(cell.target).judge(self.evaluator(cell.workload))


def check_comparison(bench: Bench) -> None:
    """Refuses what no cell could be run with, before any is.

    Raises:
        ValueError: a subclass that names what does not fit.
    """
    settings = bench.settings
    for name in ("workloads", "agents", "targets"):
        given = getattr(settings, name)
        if not given:
            raise AgentError(f"a comparison needs at least one of its {name}")
        if len(set(given)) < len(given):
            raise AgentError(f"{name} are {', '.join(map(str, given))}; each may stand there once")
    if settings.seeds < 1:
        raise AgentError(f"seeds is {settings.seeds}; it must be at least 1")
    check_budget(settings.budget)
    check_features(settings.hidden_features)
    settings.goal.check_named()
    for agent in settings.agents:
        make_agent(agent)
    places: dict[Path, Cell] = {}
    for cell in settings.cells():
        other = places.setdefault(cell.folder(bench.top), cell)
        if other is not cell:
            raise AgentError(
                f"'{cell}' and '{other}' would share the folder '{cell.folder(bench.top)}'; give "
                "one of them another name"
            )
    for workload, target in itertools.product(settings.workloads, settings.targets):
        bench.judge(Cell(workload, settings.agents[0], target, 0))


def run_cell(bench: Bench, cell: Cell) -> str | None:
    """Runs a cell, or goes on with it, and writes its record.

    Returns:
        What went wrong, ``None`` when nothing did.
    """
    folder = cell.folder(bench.top)
    start = time.perf_counter()
    try:
        settings = bench.settings.search(cell)
        evaluator, judge = bench.evaluator(cell.workload), bench.judge(cell)
        with claimed(folder, resume=True, may_be_missing=True):
            agent, storage = make_agent(cell.agent), bench.storage
            found = search_in_folder(agent, evaluator, judge, settings, folder, storage=storage)
            if found.interrupted:
                raise KeyboardInterrupt
            report = finish(evaluator, judge, settings, found, folder)
            record = record_of(cell, report, judge, time.perf_counter() - start)
            write_json(folder / RECORD, record)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def record_of(cell: Cell, report: SearchReport, judge: Judge, seconds: float) -> dict[str, Any]:
    """All that statistics and the report need of a cell, as plain JSON values."""
    search = report.search
    candidates = search.candidates
    return {
        "cell": asdict(cell),
        "paid": search.paid,
        "charged": search.charged,
        "charged_for": search.charged_for,
        "episodes": search.episodes,
        "simulator_runs": search.runs,
        "updated": search.updated,
        "seconds": seconds,
        "search_seconds": search.seconds,
        "evaluation_seconds": sum(c.evaluation.seconds for c in candidates),
        "spent": [point.spent for point in search.curve],
        "plans": [list(c.evaluation.counts) for c in candidates],
        "accuracy": [c.accuracy for c in candidates],
        "synops_fraction": [c.evaluation.synops_fraction for c in candidates],
        "predicted_fraction": [c.predicted_fraction for c in candidates],
        "max_ratio": judge.max_ratio,
        "lre_samples": len(getattr(estimate_of(judge.estimator), "samples", ())),
        "groups": list(report.tuned.plan.groups),
        "channels": list(report.tuned.plan.channels),
        "plan": list(report.candidate.evaluation.counts),
        "test_accuracy": report.measured.accuracy,
        "test_fraction": report.fraction,
        "unpruned_accuracy": report.unpruned.accuracy,
        "kept": report.kept(cell.target, None),
    }


def read_records(top: Path, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The records of the cells that are done.

    Raises:
        RunError: when one is damaged.
    """
    records = []
    for cell in cells:
        path = cell.folder(top) / RECORD
        if path.is_file():
            record = read_json(path)
            if not isinstance(record, dict) or record.get("cell") != asdict(cell):
                raise RunError(f"'{path}' is damaged: it holds no record of {cell}")
            records.append(record)
    return records
