"""A run folder: settings and outcome of a search, written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spear_gym.boundary import files
from spear_gym.boundary.files import (
    FileError,
    write_bytes,
    write_json,
)
from spear_gym.evaluation import Finetuned, PlanEvaluator
from spear_gym.judge import Candidate, Judge
from spear_gym.lre import BoundedEstimator, FittedEstimator, LinearEstimator, SynopsEstimator
from spear_gym.pruning.keeping import NETWORK, PLAN, network_files
from spear_gym.pruning.plan import Plan
from spear_gym.report.plan_view import LayerView, PlanView
from spear_gym.report.search_pictures import curve_png, plan_png
from spear_gym.settings import Goal, PlanSettings, flat
from spear_gym.workload import Measurement

from .base import SearchResult
from .folders import RESULT, sums
from .repair import RepairStep

Outcome = Literal["kept", "repaired", "broken"]
RESULT_FORMAT = "spear-gym result 1"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a search was asked for; written to ``settings.json``.

    Attributes:
        workload: name in the catalogue or ``module:function``.
        agent: agent name, or its path.
        agent_settings: its settings, beside its defaults.
        plans: the plans that it may make, and how they are scored.
        goal: what they are judged by; reward and prediction by name.
        budget: paid evaluations.
        seed: of the agent and of fine-tuning.
        hidden_features: observation features that agents see as 0.
        top: plans that are fine-tuned; the best on search is chosen.
        repair: trim a network that breaks its target.
        use_slack: widen one that wastes it.
        threads: torch threads.
    """

    workload: str
    agent: str
    agent_settings: dict[str, Any] = field(default_factory=dict)
    plans: PlanSettings = field(default_factory=PlanSettings)
    goal: Goal = field(default_factory=Goal)
    budget: int = 200
    seed: int = 0
    hidden_features: tuple[str, ...] = ()
    top: int = 1
    repair: bool = False
    use_slack: bool = False
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """As ``settings.json`` holds them, in the order of :data:`WRITTEN`.

        Raises:
            ValueError: a subclass that names what a file cannot keep.
        """
        values = flat(self)
        newer = {name: values[name] for name in NEWER if values[name]}
        return {name: values[name] for name in WRITTEN} | newer


WRITTEN = (
    "workload", "agent", "agent_settings", "target", "target_synops", "budget", "seed", "reward",
    "reward_settings", "scoring", "precision", "criterion", "lre", "channel_multiple",
    "min_channels", "max_ratio", "hidden_features", "confidence", "extrapolate", "top", "repair",
    "use_slack", "threads",
)  # fmt: skip
"""Names in ``settings.json``, in the order of its first version: equal settings, equal bytes."""

NEWER = ("exclude",)
"""Names that are written only when they are set, so that files without them stay as they were."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Wall time of the phases, seconds."""

    search: float
    finetune: float
    test: float


@dataclass(frozen=True)
class SearchReport:
    """The outcome of a search.

    Attributes:
        search: what the agent found.
        candidate: the plan that was chosen after fine-tuning.
        tuned: its network, fine-tuned and, if asked for, repaired.
        repairs: what was done to keep the target, in order.
        repair_evaluations: plans scored for that, beside the search's.
        unpruned: the unpruned network on test.
        measured: the fine-tuned network on test.
        tuned_plans: how many plans were fine-tuned.
        scored_plans: how many they were chosen from; more than the search's where searches for
            several targets share them.
        phases: wall time.
    """

    search: SearchResult
    candidate: Candidate
    tuned: Finetuned
    unpruned: Measurement
    measured: Measurement
    tuned_plans: int
    scored_plans: int
    phases: Phases
    repairs: tuple[RepairStep, ...] = ()
    repair_evaluations: int = 0

    @property
    def fraction(self) -> float:
        """Measured SynOps on test over those of the unpruned network on test."""
        return self.measured.synops / self.unpruned.synops

    def outcome(self, target: float, target_synops: float | None) -> Outcome:
        """Whether the target is kept on test, and if so, whether the network was trimmed for it."""
        if not self.kept(target, target_synops):
            return "broken"
        trimmed = any(step.action == "trim" and step.adopted for step in self.repairs)
        return "repaired" if trimmed else "kept"

    def kept(self, target: float, target_synops: float | None) -> bool:
        """Whether the target is kept on test: the absolute one when it was given so."""
        if target_synops is not None:
            return self.measured.synops <= target_synops
        return self.fraction <= target


def write_network(tuned: Finetuned, folder: Path) -> None:
    """Writes a fine-tuned network, its plan and what it is, before anything is measured on test.

    A result of an earlier session stays where plan and network are the same; else it goes first,
    for a result speaks of the plan and the network beside it.
    """
    contents = network_files(tuned.model)
    changed = {n: c for n, c in contents.items() if not _holds(folder / n, c)}
    if changed.keys() & {PLAN, NETWORK}:
        (folder / RESULT).unlink(missing_ok=True)
    for name, content in changed.items():
        write_bytes(folder / name, content)


def write_best_plan(plan: Plan, folder: Path) -> None:
    """Writes the best plan of a search so far; where there is a network, its plan stays."""
    if not (folder / NETWORK).exists():
        write_json(folder / PLAN, plan.to_json())


def _holds(path: Path, content: bytes) -> bool:
    try:
        return files.read_whole(path, len(content)) == content
    except FileError:
        return False


def write_run(
    report: SearchReport,
    evaluator: PlanEvaluator,
    judge: Judge,
    settings: SearchSettings,
    folder: Path,
) -> None:
    """Writes the outcome of a search beside its network: figures, then pictures."""
    result = result_json(report, evaluator, judge, settings)
    write_json(folder / RESULT, result | {"sha256": sums(folder, result)})
    candidates = report.search.candidates
    title = (
        f"{report.search.agent} on {evaluator.workload.name}, target {judge.target:g}: "
        f"{report.search.paid} evaluations"
    )
    accuracies = [candidate.accuracy for candidate in candidates]
    ratios = [candidate.ratio for candidate in candidates]
    metric = evaluator.workload.objective.metric_name
    write_bytes(folder / "curve.png", curve_png(accuracies, ratios, title, judge.target, metric))
    write_bytes(folder / "plan.png", plan_png(_plan_view(report, evaluator, judge)))


def estimator_json(estimator: SynopsEstimator) -> dict[str, Any] | str:
    """Which prediction was used: W and b, or its name; and the confidence of a bound on it."""
    if isinstance(estimator, BoundedEstimator):
        inner = estimator_json(estimator.estimate)
        assert isinstance(inner, dict)
        return inner | {"confidence": estimator.confidence, "widened": estimator.widened}
    if isinstance(estimator, LinearEstimator):
        return {"weight": estimator.weight, "intercept": estimator.intercept}
    if isinstance(estimator, FittedEstimator):
        return {"estimator": estimator.family, **asdict(estimator.fit)}
    return type(estimator).__name__


def result_json(
    report: SearchReport, evaluator: PlanEvaluator, judge: Judge, settings: SearchSettings
) -> dict[str, Any]:
    """The result as plain JSON values at full precision."""
    candidate, search = report.candidate, report.search
    return {
        "format": RESULT_FORMAT,
        "target": judge.target,
        "agent": search.agent,
        "paid": search.paid,
        "charged": search.charged,
        "charged_for": search.charged_for,
        "episodes": search.episodes,
        "simulator_runs": search.runs,
        "statistics": evaluator.statistics | dict(report.tuned.ways),
        "updated": search.updated,
        "interrupted": search.interrupted,
        "faults": list(search.faults),
        "ended": search.ended,
        "tuned_plans": report.tuned_plans,
        "scored_plans": report.scored_plans,
        "seconds": asdict(report.phases),
        "plan": list(report.tuned.plan.counts),
        "scored": {
            "plan": list(candidate.evaluation.counts),
            "accuracy": candidate.accuracy,
            "synops_fraction": candidate.evaluation.synops_fraction,
            "predicted_synops_fraction": candidate.predicted_fraction,
            "params_fraction": candidate.evaluation.params_fraction,
            "feasible": candidate.feasible,
        },
        "search_after_finetuning": asdict(report.tuned.search),
        "search_unpruned": asdict(evaluator.reference),
        "test": asdict(report.measured),
        "test_unpruned": asdict(report.unpruned),
        "test_synops_fraction": report.fraction,
        "target_synops": settings.goal.target_synops,
        "lre": estimator_json(judge.estimator),
        "kept": report.kept(judge.target, settings.goal.target_synops),
        "outcome": report.outcome(judge.target, settings.goal.target_synops),
        "repairs": [asdict(step) for step in report.repairs],
        "repair_evaluations": report.repair_evaluations,
    }


def _plan_view(report: SearchReport, evaluator: PlanEvaluator, judge: Judge) -> PlanView:
    # As it was scored: nothing was predicted for a repaired network.
    evaluation = report.candidate.evaluation
    layers = tuple(
        LayerView(group.name, group.channels, kept, measured.input_rate)
        for group, kept, measured in zip(
            evaluator.space.groups, evaluation.counts, evaluation.prefixes[:-1], strict=True
        )
    )
    return PlanView(
        workload=evaluator.workload.name,
        layers=layers,
        committed=evaluation.synops_fraction,
        still_open=0.0,
        target=judge.target,
        predicted=report.candidate.predicted_fraction,
        accuracy=report.candidate.accuracy,
        reward=report.candidate.reward,
        metric=evaluator.workload.objective.metric_name,
    )
