"""``spear search`` and ``spear evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from spear_gym.cli.common import (
    INTERRUPTED,
    CriterionOption,
    PrecisionOption,
    ScoringOption,
    StorageOption,
    ThreadsOption,
    WorkersOption,
    WorkloadOption,
    app,
    check_seed,
    err,
    out,
    progress_bar,
    resolve_workload,
    reward_settings_of,
    set_threads,
    worker_count,
)
from spear_gym.cli.lre import estimator_for

if TYPE_CHECKING:
    from spear_gym.agents.base import SearchResult, SearchSession
    from spear_gym.agents.run_folder import SearchReport, SearchSettings
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.target import Candidate
    from spear_gym.workload import Measurement


@app.command()
def search(
    workload: WorkloadOption = "digits",
    agent: Annotated[
        str, typer.Option(help="By name (`spear agents` lists them), or module:attribute.")
    ] = "spear-ddpg",
    agent_setting: Annotated[
        list[str] | None, typer.Option(help="Setting of the agent, e.g. gamma=1; repeatable.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="SynOps after fine-tuning, fraction of the unpruned.")
    ] = None,
    target_synops: Annotated[
        float | None, typer.Option(help="The same as SynOps per sample.")
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
    """Search a plan under a SynOps target, fine-tune it, and show that the target is kept."""
    set_threads(threads)
    from spear_gym.agents.run_folder import SearchSettings
    from spear_gym.env import DEFAULT_TARGET

    if target is None and target_synops is None:
        target = DEFAULT_TARGET
    settings = SearchSettings(
        workload=workload,
        agent=agent,
        agent_settings=_agent_settings(agent_setting or []),
        target=target,
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
        top=top,
        threads=threads,
    )
    goal = f"{target:g}" if target is not None else f"{target_synops:g}synops"
    folder = out_folder or Path("runs") / f"{_short(workload)}-{_short(agent)}-{goal}-seed{seed}"
    _search(settings, folder, storage, resume=resume, overwrite=overwrite, workers=workers)


def _short(name: str) -> str:
    """A name without the module of a path."""
    return name.split(":")[-1]


@app.command()
def agents() -> None:
    """List the agents."""
    from spear_gym.agents import AGENTS

    for name in AGENTS:
        out.print(name, highlight=False)


def _search(
    settings: SearchSettings,
    folder: Path,
    storage: str | None,
    *,
    resume: bool,
    overwrite: bool,
    workers: int | None,
) -> None:
    from spear_gym.agents import AgentError, make_agent
    from spear_gym.agents.pipeline import finish, search_in_folder
    from spear_gym.agents.run_folder import check_folder, prepare_folder
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.observation import check_features
    from spear_gym.reward import make_reward
    from spear_gym.storage import check_storage
    from spear_gym.target import make_judge, target_fraction

    check_seed(settings.seed)
    check_features(settings.hidden_features)
    agent = make_agent(settings.agent, settings.agent_settings)
    shape = make_reward(settings.reward, settings.reward_settings)
    if settings.budget < 1 or settings.top < 1:
        raise AgentError(
            f"budget is {settings.budget} and top {settings.top}; both must be at least 1"
        )
    check_folder(folder, overwrite=overwrite, resume=resume)
    evaluator = PlanEvaluator(
        resolve_workload(settings.workload),
        scoring=settings.scoring,  # type: ignore[arg-type]
        precision=settings.precision,  # type: ignore[arg-type]
        criterion=settings.criterion,
        channel_multiple=settings.channel_multiple,
        min_channels=settings.min_channels,
        max_ratio=settings.max_ratio,
    )
    target_fraction(evaluator, settings.target, settings.target_synops)
    worker_count(workers)
    estimator = estimator_for(evaluator, settings.lre, workers)
    judge = make_judge(
        evaluator,
        estimator,
        shape,
        target=settings.target,
        target_synops=settings.target_synops,
    )
    check_storage(storage)
    prepare_folder(folder, overwrite=overwrite, resume=resume)
    with progress_bar("best reward so far {task.fields[best]}") as progress:
        task = progress.add_task(f"search ({agent.name})", total=settings.budget, best="-")

        def show(session: SearchSession, _: Candidate) -> None:
            best = f"{session.curve[-1].best_reward:.3f}"
            progress.update(task, completed=session.spent, best=best)

        found = search_in_folder(
            agent,
            evaluator,
            judge,
            settings,
            folder,
            storage=storage,
            overwrite=overwrite,
            on_candidate=show,
        )
        if not found.interrupted:
            progress.update(task, completed=settings.budget, total=settings.budget)
    if found.interrupted:
        _interrupted(found, folder)
    with progress_bar() as progress:
        task = progress.add_task("fine-tune", total=None)

        def tuned(number: int, done: int, total: int, _: float) -> None:
            progress.update(task, completed=number * total + done, total=settings.top * total)

        try:
            report = finish(evaluator, judge, settings, found, folder, on_batch=tuned)
        except KeyboardInterrupt:
            _interrupted(found, folder)
    show_report(report, evaluator, judge.target, settings.target_synops)
    name = escape(str(folder))
    out.print(f"\nresults: [bold]{name}[/] (try: spear evaluate {name})", soft_wrap=True)


def _interrupted(found: SearchResult, folder: Path) -> NoReturn:
    out.print(
        f"interrupted after {found.paid} evaluations; the best plan so far is in "
        f"{escape(str(folder / 'plan.json'))}; continue with --resume",
        soft_wrap=True,
    )
    raise typer.Exit(INTERRUPTED)


def show_report(
    report: SearchReport, evaluator: PlanEvaluator, target: float, target_synops: float | None
) -> None:
    """Prints the result of a search: unpruned, predicted and measured."""
    search, candidate = report.search, report.candidate
    unpruned, measured = report.unpruned, report.measured
    predicted_synops = candidate.predicted_fraction * evaluator.reference.synops
    table = Table(title=f"{evaluator.workload.name}: target {target:.3f} of the unpruned SynOps")
    for column in ("", "accuracy", "SynOps", "fraction", "of target", "params"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row(*_row("unpruned (test)", unpruned, 1.0, target))
    table.add_row(
        "predicted (search)",
        f"{candidate.accuracy:.4f}*",
        f"{predicted_synops:,.0f}",
        f"{candidate.predicted_fraction:.4f}",
        f"{candidate.ratio:.1%}",
        f"{candidate.evaluation.parameters:,}",
    )
    table.add_row(*_row("measured (test)", measured, report.fraction, target))
    out.print(table)
    out.print("* before fine-tuning")
    widths = ", ".join(
        f"{group.name} {kept}/{group.channels}"
        for group, kept in zip(evaluator.space.groups, candidate.evaluation.counts, strict=True)
    )
    out.print(f"channels kept: {widths}", soft_wrap=True)
    charged = f"; charged beside: {search.charged}, {search.charged_for}" if search.charged else ""
    out.print(
        f"paid evaluations: {search.paid} ({search.episodes} episodes, {search.runs} simulator "
        f"runs); plans fine-tuned: {report.tuned_plans}{charged}",
        soft_wrap=True,
    )
    phases = report.phases
    out.print(
        f"time: search {phases.search:.1f} s, fine-tune {phases.finetune:.1f} s, "
        f"test {phases.test:.1f} s"
    )
    if not candidate.feasible:
        out.print("[bold yellow]no plan was predicted to keep the target; this is the nearest[/]")
    if not search.updated:
        out.print("[bold yellow]no update within budget: the agent never learned[/]")
    if target_synops is not None:
        out.print(f"target: {target_synops:,.0f} SynOps per sample, judged absolutely on test")
    kept = report.kept(target, target_synops)
    out.print("target [bold green]kept[/]" if kept else "target [bold red]broken[/]")


def _row(name: str, figures: Measurement, fraction: float, target: float) -> tuple[str, ...]:
    return (
        name,
        f"{figures.accuracy:.4f}",
        f"{figures.synops:,.0f}",
        f"{fraction:.4f}",
        f"{fraction / target:.1%}",
        f"{figures.parameters:,}",
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
) -> None:
    """Load a run's pruned network again and reproduce the measured row of its table."""
    from spear_gym.agents.run_folder import RunError, load_network, read_result, read_settings
    from spear_gym.workload import measure

    settings = read_settings(run)
    result = read_result(run)
    set_threads(settings.threads)
    workload = resolve_workload(settings.workload)
    model = load_network(run, workload)
    measured, unpruned = measure(workload, model, "test"), workload.reference("test")
    fraction = measured.synops / unpruned.synops
    try:
        target, recorded = float(result["target"]), result["test"]
        same = (recorded["accuracy"], recorded["synops"], recorded["parameters"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"'{run / 'result.json'}' is damaged: {error!r}") from error
    table = Table(title=f"{workload.name}: target {target:.3f} of the unpruned SynOps")
    for column in ("", "accuracy", "SynOps", "fraction", "of target", "params"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row(*_row("unpruned (test)", unpruned, 1.0, target))
    table.add_row(*_row("measured (test)", measured, fraction, target))
    out.print(table)
    if (measured.accuracy, measured.synops, measured.parameters) != same:
        err.print(
            f"the recorded row differs: accuracy {same[0]}, SynOps {same[1]}, parameters {same[2]}"
        )
        raise typer.Exit(1)
    out.print("equal to the recorded row")


def _agent_settings(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; values in YAML, so that numbers, lists and mappings can be given."""
    import yaml

    from spear_gym.agents.base import AgentError

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            if not (key and equals):
                raise ValueError
            # YAML 1.1 takes 1e-3 for a text.
            settings[key] = float(value) if _is_number(value) else yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise AgentError(
                f"agent setting '{pair}' is not of the form name=value, e.g. learning_rate=1e-3"
            ) from None
    return settings


def _is_number(text: str) -> bool:
    """Whether a text is a number in exponent form."""
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower()
