"""``spear search`` and ``spear agents``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from spear_gym.cli.common import (
    INTERRUPTED,
    CriterionOption,
    PrecisionOption,
    ScoringOption,
    StorageOption,
    ThreadsOption,
    WorkersOption,
    WorkloadOption,
    agent_settings_of,
    app,
    check_count,
    check_seed,
    numbers,
    out,
    progress_bar,
    reward_settings_of,
    set_threads,
    worker_count,
)
from spear_gym.cli.lre import ConfidenceIfAny, confidence_of, estimator_for
from spear_gym.cli.tables import show_front, show_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_gym.agents.base import SearchResult, SearchSession
    from spear_gym.agents.repair import Step
    from spear_gym.agents.run_folder import SearchReport, SearchSettings
    from spear_gym.judge import Candidate, Judge

DEFAULT_AGENT = "tpe"
"""By the rule of the ablation's protocol (`notebooks/results/ablation/protocol.md`)."""

BROKEN = 3
"""Exit status when a network that is handed over breaks its target."""


@app.command()
def search(
    workload: WorkloadOption = "digits",
    agent: Annotated[
        str, typer.Option(help="By name (`spear agents` lists them), or module:attribute.")
    ] = DEFAULT_AGENT,
    agent_setting: Annotated[
        list[str] | None, typer.Option(help="Setting of the agent, e.g. gamma=1; repeatable.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="SynOps after fine-tuning, fraction of the unpruned.")
    ] = None,
    target_synops: Annotated[
        float | None, typer.Option(help="The same as SynOps per sample.")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Several targets, e.g. 0.5,0.3,0.15: one search each, which share all scored "
            "plans, and one fine-tuned network each."
        ),
    ] = None,
    budget: Annotated[int, typer.Option(help="Paid evaluations: distinct plans.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the agent and of fine-tuning.")] = 0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/<workload>-<agent>-... if unset.")
    ] = None,
    reward: Annotated[
        str, typer.Option(help="tar, mnasnet-soft, mnasnet-hard, tunas, amc, lagrangian or hard.")
    ] = "tar",
    reward_setting: Annotated[
        list[str] | None, typer.Option(help="Setting of the reward, e.g. lam=10; repeatable.")
    ] = None,
    scoring: ScoringOption = None,
    precision: PrecisionOption = "float32",
    criterion: CriterionOption = "l1",
    lre: Annotated[str, typer.Option(help="auto, none, or the path of a fit.")] = "auto",
    confidence: ConfidenceIfAny = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Allow targets outside the fitted SynOps.")
    ] = False,
    repair: Annotated[
        bool, typer.Option(help="Trim the fine-tuned network until it keeps the target.")
    ] = True,
    use_slack: Annotated[
        bool, typer.Option("--use-slack", help="Widen it when it is far under the target.")
    ] = False,
    storage: StorageOption = None,
    channel_multiple: Annotated[int, typer.Option(help="Kept channels are multiples of it.")] = 1,
    min_channels: Annotated[int, typer.Option(help="Fewest channels a layer keeps.")] = 1,
    max_ratio: Annotated[float, typer.Option(help="Largest prune ratio.")] = 0.9,
    hide: Annotated[
        list[str] | None,
        typer.Option(help="Observation feature that the agent sees as 0; repeatable."),
    ] = None,
    top: Annotated[int, typer.Option(help="Plans to fine-tune; the best on search wins.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    workers: WorkersOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Search a plan under a SynOps target, fine-tune it, and show whether the target is kept.

    Plans are judged by the upper bound of their SynOps after fine-tuning at a confidence of 0.95
    (--confidence), and a network that still breaks the target is trimmed. The exit status is 3 when
    a network breaks its target all the same.
    """
    set_threads(threads)
    from spear_gym.agents.run_folder import SearchSettings
    from spear_gym.files import number_in_name
    from spear_gym.judge import TargetError
    from spear_gym.lre.conformal import DEFAULT_CONFIDENCE
    from spear_gym.settings import DEFAULT_TARGET

    if targets is not None and (target is not None or target_synops is not None):
        raise TargetError("give one of --target, --target-synops and --targets")
    goals = [target] if targets is None else list(_several(targets))
    if goals == [None] and target_synops is None:
        goals = [DEFAULT_TARGET]
    default = None if lre == "none" else DEFAULT_CONFIDENCE
    settings = SearchSettings(
        workload=workload,
        agent=agent,
        agent_settings=agent_settings_of(agent_setting or []),
        target=goals[0],
        target_synops=target_synops,
        budget=budget,
        seed=seed,
        reward=reward,
        reward_settings=reward_settings_of(reward_setting or []),
        scoring=scoring,
        precision=precision,
        criterion=criterion,
        lre=lre,
        channel_multiple=channel_multiple,
        min_channels=min_channels,
        max_ratio=max_ratio,
        hidden_features=tuple(hide or ()),
        confidence=default if confidence is None else confidence_of(confidence),
        extrapolate=extrapolate,
        top=top,
        repair=repair,
        use_slack=use_slack,
        threads=threads,
    )
    named = (
        f"{number_in_name(target_synops)}synops"
        if target_synops is not None
        else "-".join(number_in_name(goal) for goal in goals if goal is not None)
    )
    folder = out_folder or Path("runs") / f"{_short(workload)}-{_short(agent)}-{named}-seed{seed}"
    job = _Job(settings, folder, storage, resume=resume, overwrite=overwrite, workers=workers)
    if targets is None:
        job.one()
    else:
        job.several([goal for goal in goals if goal is not None])


def _several(text: str) -> tuple[float, ...]:
    """Targets separated by commas.

    Raises:
        TargetError: when there are none, or one stands there twice.
    """
    from spear_gym.judge import TargetError

    targets = numbers(text)
    if not targets or len(set(targets)) < len(targets):
        raise TargetError(f"targets are '{text}'; give one or more, and each once")
    return targets


def _short(name: str) -> str:
    """A name without the module of a path."""
    return name.split(":")[-1]


@app.command()
def agents() -> None:
    """List the agents."""
    from spear_gym.agents import AGENTS
    from spear_gym.agents.descriptions import description

    for name in AGENTS:
        out.print(f"{name:22} {description(name)}", highlight=False, soft_wrap=True)


class _Job:
    """A search on the command line, for one target or for several.

    Everything that can be wrong with the settings is refused when it is made.

    Args:
        settings: of the search; for several targets, but for the target.
        folder: the run folder.
        storage: of the ledgers.
        resume: continue what is in the folder.
        overwrite: replace it.
        workers: processes for fitting the prediction.
    """

    def __init__(
        self,
        settings: SearchSettings,
        folder: Path,
        storage: str | None,
        *,
        resume: bool,
        overwrite: bool,
        workers: int | None,
    ) -> None:
        from spear_gym.agents import make_agent
        from spear_gym.agents.base import check_budget
        from spear_gym.env.observation import check_features
        from spear_gym.evaluation import PlanEvaluator
        from spear_gym.record.storage import check_storage
        from spear_gym.reward import make_reward
        from spear_gym.workload import resolve_workload

        self.settings, self.folder, self.storage = settings, folder, storage
        self.resume, self.overwrite, self.workers = resume, overwrite, workers
        check_seed(settings.seed)
        check_features(settings.hidden_features)
        self.agent = make_agent(settings.agent, settings.agent_settings)
        make_reward(settings.reward, settings.reward_settings)
        check_budget(settings.budget)
        check_count("top", settings.top, most=10_000)
        worker_count(workers)
        check_storage(storage)
        self.evaluator = PlanEvaluator(
            resolve_workload(settings.workload),
            scoring=settings.scoring,  # type: ignore[arg-type]
            precision=settings.precision,  # type: ignore[arg-type]
            criterion=settings.criterion,
            channel_multiple=settings.channel_multiple,
            min_channels=settings.min_channels,
            max_ratio=settings.max_ratio,
        )

    def one(self) -> None:
        """Searches for one target."""
        from spear_gym.agents.folders import check_folder, claimed, state_of

        told = {"overwrite": self.overwrite, "resume": self.resume}
        check_folder(self.folder, **told)
        (judge,) = self._judges([self.settings])
        if self.resume and state_of(self.folder) != "run":
            out.print(f"nothing was recorded in '{self.folder}' yet: it begins anew")
        with claimed(self.folder, **told):
            found = self._find(self.settings, judge, self.folder)
            report = self._finish(self.settings, judge, found, self.folder, found.candidates)
        show_report(report, self.evaluator, judge, self.settings.target_synops)
        again = f"{shlex.quote(str(self.folder))}{_repeated(self.settings.workload)}"
        out.print(f"\nresults: {self.folder} (try: spear evaluate {again})", soft_wrap=True)
        if report.outcome(judge.target, self.settings.target_synops) == "broken":
            raise typer.Exit(BROKEN)

    def several(self, targets: Sequence[float]) -> None:
        """Searches for each target; each is then given the best of all plans scored for any."""
        from spear_gym.agents.folders import check_folder, check_front, owned, remove_front
        from spear_gym.files import number_in_name

        told = {"overwrite": self.overwrite, "resume": self.resume}
        check_front(self.folder, **told)
        wanted = [replace(self.settings, target=target) for target in targets]
        folders = [self.folder / f"target-{number_in_name(target)}" for target in targets]
        for folder in folders:
            check_folder(folder, **told, may_be_missing=True)
        judges = self._judges(wanted)
        with ExitStack() as owning:
            owning.enter_context(owned(self.folder))
            if self.overwrite:
                remove_front(self.folder)
            for folder in folders:  # all of them before any is paid for
                owning.enter_context(owned(folder))
            self._front(wanted, judges, folders)

    def _front(
        self, wanted: Sequence[SearchSettings], judges: Sequence[Judge], folders: Sequence[Path]
    ) -> None:
        from spear_gym.agents.front import FrontPoint, write_front

        found = [self._find(*job) for job in zip(wanted, judges, folders, strict=True)]
        pool = {c.evaluation.counts: c.evaluation for one in found for c in one.candidates}
        points = []
        for settings, judge, one, folder in zip(wanted, judges, found, folders, strict=True):
            scored = [judge(evaluation) for evaluation in pool.values()]
            report = self._finish(settings, judge, one, folder, scored)
            show_report(report, self.evaluator, judge, None)
            points.append(FrontPoint.of(report, judge.target, folder.name))
        metric = self.evaluator.workload.objective.metric_name
        write_front(points, self.evaluator.workload.name, self.folder, metric)
        show_front(points, self.folder, metric)
        out.print(f"\nresults: {self.folder}", soft_wrap=True)
        if any(point.outcome == "broken" for point in points):
            raise typer.Exit(BROKEN)

    def _judges(self, wanted: Sequence[SearchSettings]) -> list[Judge]:
        """One judge per target, all of one estimator; a missing fit is made first."""
        from spear_gym.judge import make_judge, target_fraction
        from spear_gym.reward import make_reward

        evaluator, first = self.evaluator, wanted[0]
        fractions = tuple(target_fraction(evaluator, s.target, s.target_synops) for s in wanted)
        estimator = estimator_for(evaluator, first.lre, self.workers, fractions, first.confidence)
        return [
            make_judge(
                evaluator,
                estimator,
                make_reward(settings.reward, settings.reward_settings),
                target=settings.target,
                target_synops=settings.target_synops,
                confidence=settings.confidence,
                extrapolate=settings.extrapolate,
            )
            for settings in wanted
        ]

    def _find(self, settings: SearchSettings, judge: Judge, folder: Path) -> SearchResult:
        from spear_gym.agents.base import AgentFailed
        from spear_gym.agents.pipeline import search_in_folder

        with progress_bar("best reward so far {task.fields[best]}") as progress:
            name = f"search ({self.agent.name}, target {judge.target:.3g})"
            task = progress.add_task(name, total=settings.budget, best="-")

            def show(session: SearchSession, _: Candidate) -> None:
                best = f"{session.curve[-1].best_reward:.3f}"
                progress.update(task, completed=session.spent, best=best)

            try:
                found = search_in_folder(
                    self.agent,
                    self.evaluator,
                    judge,
                    settings,
                    folder,
                    storage=self.storage,
                    overwrite=self.overwrite,
                    on_candidate=show,
                )
            except AgentFailed as error:
                if error.found is None:
                    raise
                raise AgentFailed(
                    f"{error}; the best plan so far is in {folder / 'plan.json'}, and nothing is "
                    "paid again: mend the agent and continue with --resume"
                ) from error
            if not found.interrupted:
                progress.update(task, completed=settings.budget, total=settings.budget)
        if found.interrupted:
            _interrupted(found, folder)
        return found

    def _finish(
        self,
        settings: SearchSettings,
        judge: Judge,
        found: SearchResult,
        folder: Path,
        scored: Sequence[Candidate],
    ) -> SearchReport:
        from spear_gym.agents.pipeline import finish

        with progress_bar() as progress:
            task = progress.add_task("fine-tune", total=None)

            def tuned(number: int, done: int, total: int, _: float) -> None:
                progress.update(task, completed=number * total + done, total=settings.top * total)

            def repaired(step: Step) -> None:
                progress.update(task, description=f"repair ({step.action})")

            try:
                return finish(
                    self.evaluator,
                    judge,
                    settings,
                    found,
                    folder,
                    scored=scored,
                    on_batch=tuned,
                    on_step=repaired,
                )
            except KeyboardInterrupt:
                _interrupted(found, folder)


def _repeated(workload: str) -> str:
    """What `spear evaluate` must be told: it runs no function that only a file names."""
    return f" --workload {workload}" if ":" in workload else ""


def _interrupted(found: SearchResult, folder: Path) -> NoReturn:
    out.print(
        f"interrupted after {found.paid} evaluations; the best plan so far is in "
        f"{folder / 'plan.json'}; continue with --resume",
        soft_wrap=True,
    )
    raise typer.Exit(INTERRUPTED)
