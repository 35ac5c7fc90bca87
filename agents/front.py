"""Several targets from one search: a front of fine-tuned networks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spear_gym.boundary.files import number_in_name, write_bytes, write_json
from spear_gym.evaluation import PlanEvaluator
from spear_gym.judge import Candidate, Judge, TargetError
from spear_gym.lre import SynopsEstimator
from spear_gym.pruning.keeping import PLAN
from spear_gym.report.search_pictures import front_png

from .base import Agent, AgentFailed, SearchResult, SearchSession
from .folders import FRONT_FORMAT, check_folder, check_front, owned, remove_front
from .pipeline import finish, search_in_folder
from .repair import RepairStep
from .run_folder import Outcome, SearchReport, SearchSettings


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """The network for one target.

    Attributes:
        target: SynOps fraction.
        outcome: whether it is kept on test.
        accuracy: on test.
        fraction: SynOps on test over the unpruned network's.
        unpruned_accuracy: of the unpruned network on test.
        counts: channels kept per group.
        folder: its run folder, below that of the front.
    """

    target: float
    outcome: Outcome
    accuracy: float
    fraction: float
    unpruned_accuracy: float
    counts: tuple[int, ...]
    folder: str

    @classmethod
    def of(cls, report: SearchReport, target: float, folder: str) -> FrontPoint:
        """A point from the report of its search."""
        return cls(
            target,
            report.outcome(target, None),
            report.measured.accuracy,
            report.fraction,
            report.unpruned.accuracy,
            report.tuned.plan.counts,
            folder,
        )


def write_front(
    points: Sequence[FrontPoint], workload: str, folder: Path, metric: str = "accuracy"
) -> None:
    """Writes ``front.json`` and ``front.png``.

    Args:
        points: one per target.
        workload: its name, for the title.
        folder: where to.
        metric: what the accuracies are, for the picture.
    """
    rows = [asdict(point) for point in points]
    write_json(
        folder / "front.json", {"format": FRONT_FORMAT, "workload": workload, "points": rows}
    )
    drawn = [(p.target, p.fraction, p.accuracy, p.outcome != "broken") for p in points]
    unpruned = points[0].unpruned_accuracy
    write_bytes(folder / "front.png", front_png(drawn, unpruned, workload, metric))


@dataclass(frozen=True)
class SearchJob:
    """One search, and where it is kept.

    Attributes:
        settings: what is asked for, its target too.
        judge: of the plans.
        folder: the run folder.
    """

    settings: SearchSettings
    judge: Judge
    folder: Path


class Watcher:
    """Is told how searches go on; this one does nothing with it."""

    def search(self, job: SearchJob) -> None:
        """A search begins."""

    def candidate(self, session: SearchSession) -> None:
        """A plan was scored for it."""

    def searched(self, job: SearchJob) -> None:
        """It ended."""

    def tune(self, job: SearchJob) -> None:
        """Fine-tuning for it begins."""

    def batch(self, number: int, done: int, total: int) -> None:
        """A batch of the plan of this number, of so many, is done."""

    def step(self, step: RepairStep) -> None:
        """A step of a repair is done."""

    def report(self, job: SearchJob, report: SearchReport) -> None:
        """All of it is done, and written."""


class SearchInterrupted(KeyboardInterrupt):
    """A search was interrupted; the same call with ``resume`` goes on with it.

    Attributes:
        found: what it had found by then.
        folder: its run folder.
    """

    def __init__(self, found: SearchResult, folder: Path) -> None:
        super().__init__(f"interrupted after {found.paid} evaluations")
        self.found, self.folder = found, folder


def target_folders(
    folder: Path, targets: Sequence[float], *, resume: bool = False, overwrite: bool = False
) -> list[Path]:
    """The run folders of searches for several targets, before anything is done.

    Args:
        folder: of all of them.
        targets: SynOps fractions.
        resume: continue what is there.
        overwrite: replace it.

    Raises:
        TargetError: when there is no target, or one stands there twice.
        RunError: for folders that hold something else.
    """
    if not targets or len(set(targets)) < len(targets):
        given = ", ".join(f"{target:g}" for target in targets)
        raise TargetError(f"targets are '{given}'; give one or more, and each once")
    check_front(folder, overwrite=overwrite, resume=resume)
    folders = [folder / f"target-{number_in_name(target)}" for target in targets]
    for each in folders:
        check_folder(each, overwrite=overwrite, resume=resume, may_be_missing=True)
    return folders


def search_targets(
    agent: Agent,
    evaluator: PlanEvaluator,
    settings: SearchSettings,
    targets: Sequence[float],
    folder: Path,
    *,
    estimator: SynopsEstimator | None = None,
    storage: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> list[FrontPoint]:
    """Searches for each target; each is then given the best of all plans scored for any.

    Args:
        agent: who searches.
        evaluator: scores plans, as the settings make it.
        settings: of every search, but for the target.
        targets: SynOps fractions.
        folder: gets a run folder for each target, ``front.json`` and ``front.png``.
        estimator: the one that the goal's ``lre`` stands for, where it was found already.
        storage: of the ledgers, see :func:`~spear_gym.agents.pipeline.search_in_folder`.
        resume: continue what is in the folder.
        overwrite: replace it.
        watcher: is told how it goes on.

    Returns:
        The network for each target.

    Raises:
        ValueError: a subclass that names what does not fit, before any plan is paid for.
        AgentFailed: when the agent does; what it found by then is kept.
        SearchInterrupted: on Ctrl-C; what was found by then is kept.
    """
    folders = target_folders(folder, targets, resume=resume, overwrite=overwrite)
    goals = [settings.goal.at(target) for target in targets]
    for goal in goals:
        goal.fraction(evaluator)  # before a missing prediction is asked for
    estimator = settings.goal.estimator(evaluator) if estimator is None else estimator
    jobs = [
        SearchJob(replace(settings, goal=goal), goal.judge(evaluator, estimator), own)
        for goal, own in zip(goals, folders, strict=True)
    ]
    with ExitStack() as owning:
        owning.enter_context(owned(folder))
        if overwrite:
            remove_front(folder)
        for own in folders:  # all of them before any is paid for
            owning.enter_context(owned(own))
        found = [
            search_job(agent, evaluator, job, storage=storage, overwrite=overwrite, watcher=watcher)
            for job in jobs
        ]
        pool = {c.evaluation.counts: c.evaluation for one in found for c in one.candidates}
        points = []
        for job, one in zip(jobs, found, strict=True):
            scored = [job.judge(evaluation) for evaluation in pool.values()]
            report = finish_job(evaluator, job, one, scored, watcher=watcher)
            points.append(FrontPoint.of(report, job.judge.target, job.folder.name))
        metric = evaluator.workload.objective.metric_name
        write_front(points, evaluator.workload.name, folder, metric)
    return points


def search_job(
    agent: Agent,
    evaluator: PlanEvaluator,
    job: SearchJob,
    *,
    storage: str | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> SearchResult:
    """The search of a job; see :func:`search_targets`.

    Raises:
        AgentFailed: when the agent does, and where the best plan is.
        SearchInterrupted: on Ctrl-C.
    """
    watcher = watcher or Watcher()
    watcher.search(job)
    try:
        found = search_in_folder(
            agent,
            evaluator,
            job.judge,
            job.settings,
            job.folder,
            storage=storage,
            overwrite=overwrite,
            on_candidate=lambda session, _: watcher.candidate(session),
        )
    except AgentFailed as error:
        if error.found is None:
            raise
        raise AgentFailed(
            f"{error}; the best plan so far is in {job.folder / PLAN}, and nothing is paid again: "
            "mend the agent and continue with --resume",
            error.found,
        ) from error
    if found.interrupted:
        raise SearchInterrupted(found, job.folder)
    watcher.searched(job)
    return found


def finish_job(
    evaluator: PlanEvaluator,
    job: SearchJob,
    found: SearchResult,
    scored: Sequence[Candidate],
    *,
    watcher: Watcher | None = None,
) -> SearchReport:
    """Fine-tunes the best of the plans scored; see :func:`~spear_gym.agents.pipeline.finish`.

    Raises:
        SearchInterrupted: on Ctrl-C.
    """
    watcher = watcher or Watcher()
    watcher.tune(job)
    try:
        report = finish(
            evaluator,
            job.judge,
            job.settings,
            found,
            job.folder,
            scored=scored,
            on_batch=lambda number, done, total, _: watcher.batch(number, done, total),
            on_step=watcher.step,
        )
    except KeyboardInterrupt as error:
        raise SearchInterrupted(found, job.folder) from error
    watcher.report(job, report)
    return report
