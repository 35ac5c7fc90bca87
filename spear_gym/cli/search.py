"""``spear search`` and ``spear agents``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_gym.cli.common import (
    agent_settings_of,
    app,
    check_count,
    check_seed,
    numbers,
    out,
    reward_settings_of,
    set_threads,
    worker_count,
)
from spear_gym.cli.lre import confidence_of, estimator_for
from spear_gym.cli.options import (
    ChannelMultipleOption,
    ConfidenceIfAny,
    CriterionOption,
    ExcludeOption,
    ExtrapolateOption,
    HideOption,
    LREOption,
    MaxRatioOption,
    MinChannelsOption,
    PrecisionOption,
    RewardOption,
    RewardSettingOption,
    ScoringOption,
    StorageOption,
    ThreadsOption,
    WorkersOption,
    WorkloadOption,
)
from spear_gym.cli.tables import show_front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear_gym.agents.run_folder import SearchSettings
    from spear_gym.lre import SynopsEstimator

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
    reward: RewardOption = "tar",
    reward_setting: RewardSettingOption = None,
    scoring: ScoringOption = None,
    precision: PrecisionOption = "float32",
    criterion: CriterionOption = "l1",
    lre: LREOption = "auto",
    confidence: ConfidenceIfAny = None,
    extrapolate: ExtrapolateOption = False,
    repair: Annotated[
        bool, typer.Option(help="Trim the fine-tuned network until it keeps the target.")
    ] = True,
    use_slack: Annotated[
        bool, typer.Option("--use-slack", help="Widen it when it is far under the target.")
    ] = False,
    storage: StorageOption = None,
    channel_multiple: ChannelMultipleOption = 1,
    min_channels: MinChannelsOption = 1,
    max_ratio: MaxRatioOption = 0.9,
    exclude: ExcludeOption = None,
    hide: HideOption = None,
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
    from spear_gym.boundary.files import number_in_name
    from spear_gym.judge import TargetError
    from spear_gym.lre.conformal import DEFAULT_CONFIDENCE
    from spear_gym.settings import DEFAULT_TARGET, Goal, PlanSettings

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
        plans=PlanSettings(
            scoring,
            precision,
            criterion,
            channel_multiple,
            min_channels,
            max_ratio,
            tuple(exclude or ()),
        ),
        goal=Goal(
            target=goals[0],
            target_synops=target_synops,
            reward=reward,
            reward_settings=reward_settings_of(reward_setting or []),
            lre=lre,
            confidence=default if confidence is None else confidence_of(confidence),
            extrapolate=extrapolate,
        ),
        budget=budget,
        seed=seed,
        hidden_features=tuple(hide or ()),
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
        from spear_gym.record.storage import check_storage
        from spear_gym.workload import resolve_workload

        self.settings, self.folder, self.storage = settings, folder, storage
        self.resume, self.overwrite, self.workers = resume, overwrite, workers
        check_seed(settings.seed)
        check_features(settings.hidden_features)
        self.agent = make_agent(settings.agent, settings.agent_settings)
        settings.goal.shape()
        check_budget(settings.budget)
        check_count("top", settings.top, most=10_000)
        worker_count(workers)
        check_storage(storage)
        self.evaluator = settings.plans.evaluator(resolve_workload(settings.workload))

    def one(self) -> None:
        """Searches for one target."""
        from spear_gym.agents.folders import check_folder, claimed, state_of
        from spear_gym.agents.front import SearchJob, finish_job, search_job
        from spear_gym.cli.watching import watching

        told = {"overwrite": self.overwrite, "resume": self.resume}
        check_folder(self.folder, **told)
        goal, evaluator = self.settings.goal, self.evaluator
        judge = goal.judge(evaluator, self._estimator(goal.fraction(evaluator)))
        job = SearchJob(self.settings, judge, self.folder)
        if self.resume and state_of(self.folder) != "run":
            out.print(f"nothing was recorded in '{self.folder}' yet: it begins anew")
        with claimed(self.folder, **told), watching(self.agent, evaluator) as watcher:
            found = search_job(
                self.agent,
                evaluator,
                job,
                storage=self.storage,
                overwrite=self.overwrite,
                watcher=watcher,
            )
            report = finish_job(evaluator, job, found, found.candidates, watcher=watcher)
        again = f"{shlex.quote(str(self.folder))}{_repeated(self.settings.workload)}"
        out.print(f"\nresults: {self.folder} (try: spear evaluate {again})", soft_wrap=True)
        if report.outcome(judge.target, goal.target_synops) == "broken":
            raise typer.Exit(BROKEN)

    def several(self, targets: Sequence[float]) -> None:
        """Searches for each target; each is then given the best of all plans scored for any."""
        from spear_gym.agents.front import search_targets, target_folders
        from spear_gym.cli.watching import watching

        told = {"overwrite": self.overwrite, "resume": self.resume}
        target_folders(self.folder, targets, **told)  # before a fit is paid for
        goal, evaluator = self.settings.goal, self.evaluator
        estimator = self._estimator(*(goal.at(target).fraction(evaluator) for target in targets))
        with watching(self.agent, evaluator) as watcher:
            points = search_targets(
                self.agent,
                evaluator,
                self.settings,
                targets,
                self.folder,
                estimator=estimator,
                storage=self.storage,
                **told,
                watcher=watcher,
            )
        show_front(points, self.folder, self.evaluator.workload.objective.metric_name)
        out.print(f"\nresults: {self.folder}", soft_wrap=True)
        if any(point.outcome == "broken" for point in points):
            raise typer.Exit(BROKEN)

    def _estimator(self, *fractions: float) -> SynopsEstimator:
        return estimator_for(self.evaluator, self.settings.goal, self.workers, fractions)


def _repeated(workload: str) -> str:
    """What `spear evaluate` must be told: it runs no function that only a file names."""
    return f" --workload {workload}" if ":" in workload else ""
