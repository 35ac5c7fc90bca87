"""The command ``spear``."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from spear_gym.agents.base import SearchResult, SearchSession
    from spear_gym.agents.pipeline import SearchReport, SearchSettings
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.lre import SynopsEstimator
    from spear_gym.target import Candidate
    from spear_gym.workload import Measurement, Workload

app = typer.Typer(
    help="Prune spiking neural networks to a target of synaptic operations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

LRE_SAMPLES = 40
INTERRUPTED = 130

WorkloadOption = Annotated[str, typer.Option(help="Catalogue name, or module:function.")]
NameArgument = Annotated[str, typer.Argument(help="Catalogue name, or module:function.")]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes; all cores by default.")]
ThreadsOption = Annotated[int, typer.Option(help="Torch threads of this process.")]
ScoringOption = Annotated[
    str | None, typer.Option(help="plain, recalibrated or refit; the workload's default if unset.")
]
CriterionOption = Annotated[str, typer.Option(help="l1, bn_scale, taylor or random.")]


def main() -> None:
    """Runs the command line; a user's mistake ends with one line and exit status 2."""
    with user_errors():
        app()


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns the library's errors about bad input into one clear line, without a traceback."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        # Every error about input is a ValueError of ours, every run that fails an exception class
        # of ours; anything else is a defect and may show its traceback.
        ours = type(error).__module__.startswith("spear_gym")
        if not ours and not (isinstance(error, ValueError) and "spear_gym" in _origin(error)):
            raise
        text = escape(" ".join(str(error).split()))
        err.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted", highlight=False)
        sys.exit(INTERRUPTED)


def _origin(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))


# -------------------------------------------------------------------- search


@app.command()
def search(
    workload: WorkloadOption = "digits",
    agent: Annotated[str, typer.Option(help="spear-ddpg, random or uniform.")] = "spear-ddpg",
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
    reward: Annotated[str, typer.Option(help="Reward shape: tar.")] = "tar",
    reward_setting: Annotated[
        list[str] | None, typer.Option(help="Setting of the reward, e.g. lam=10; repeatable.")
    ] = None,
    scoring: ScoringOption = None,
    criterion: CriterionOption = "l1",
    lre: Annotated[str, typer.Option(help="auto, none, or the path of a fit.")] = "auto",
    channel_multiple: Annotated[int, typer.Option(help="Kept channels are multiples of it.")] = 1,
    min_channels: Annotated[int, typer.Option(help="Fewest channels a layer keeps.")] = 1,
    max_ratio: Annotated[float, typer.Option(help="Largest prune ratio.")] = 0.9,
    top: Annotated[int, typer.Option(help="Plans to fine-tune; the best on search wins.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    workers: WorkersOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Search a plan under a SynOps target, fine-tune it, and show that the target is kept."""
    _set_threads(threads)
    from spear_gym.agents.pipeline import SearchSettings
    from spear_gym.env import DEFAULT_TARGET

    if target is None and target_synops is None:
        target = DEFAULT_TARGET
    settings = SearchSettings(
        workload=workload,
        agent=agent,
        target=target,
        target_synops=target_synops,
        budget=budget,
        seed=seed,
        reward=reward,
        reward_settings=_reward_settings(reward_setting or []),
        scoring=scoring,
        criterion=criterion,
        lre=lre,
        channel_multiple=channel_multiple,
        min_channels=min_channels,
        max_ratio=max_ratio,
        top=top,
        threads=threads,
    )
    goal = f"{target:g}" if target is not None else f"{target_synops:g}synops"
    folder = out_folder or Path("runs") / f"{workload.split(':')[-1]}-{agent}-{goal}-seed{seed}"
    _search(settings, folder, resume=resume, overwrite=overwrite, workers=workers)


def _search(
    settings: SearchSettings, folder: Path, *, resume: bool, overwrite: bool, workers: int | None
) -> None:
    from spear_gym.agents import AgentError, make_agent
    from spear_gym.agents.pipeline import check_folder, finish, prepare_folder, search_in_folder
    from spear_gym.evaluation import PlanEvaluator
    from spear_gym.reward import make_reward
    from spear_gym.target import make_judge, target_fraction

    agent = make_agent(settings.agent)
    shape = make_reward(settings.reward, settings.reward_settings)
    if settings.budget < 1 or settings.top < 1:
        raise AgentError(
            f"budget is {settings.budget} and top {settings.top}; both must be at least 1"
        )
    check_folder(folder, overwrite=overwrite, resume=resume)
    evaluator = PlanEvaluator(
        resolve_workload(settings.workload),
        scoring=settings.scoring,  # type: ignore[arg-type]
        criterion=settings.criterion,
        channel_multiple=settings.channel_multiple,
        min_channels=settings.min_channels,
        max_ratio=settings.max_ratio,
    )
    target_fraction(evaluator, settings.target, settings.target_synops)
    estimator = _estimator(evaluator, settings.lre, workers)
    judge = make_judge(
        evaluator,
        estimator,
        shape,
        target=settings.target,
        target_synops=settings.target_synops,
    )
    prepare_folder(folder, overwrite=overwrite, resume=resume)
    with _progress("best reward so far {task.fields[best]}") as progress:
        task = progress.add_task(f"search ({agent.name})", total=settings.budget, best="-")

        def show(session: SearchSession, _: Candidate) -> None:
            best = f"{session.curve[-1].best_reward:.3f}"
            progress.update(task, completed=len(session.paid), best=best)

        found = search_in_folder(agent, evaluator, judge, settings, folder, on_candidate=show)
        if not found.interrupted:
            progress.update(task, completed=settings.budget, total=settings.budget)
    if found.interrupted:
        _interrupted(found, folder)
    with _progress() as progress:
        task = progress.add_task("fine-tune", total=None)

        def tuned(number: int, done: int, total: int, _: float) -> None:
            progress.update(task, completed=number * total + done, total=settings.top * total)

        try:
            report = finish(evaluator, judge, settings, found, folder, on_batch=tuned)
        except KeyboardInterrupt:
            _interrupted(found, folder)
    show_report(report, evaluator, judge.target)
    name = escape(str(folder))
    out.print(f"\nresults: [bold]{name}[/] (try: spear evaluate {name})", soft_wrap=True)


def _interrupted(found: SearchResult, folder: Path) -> NoReturn:
    out.print(
        f"interrupted after {found.paid} evaluations; the best plan so far is in "
        f"{escape(str(folder / 'plan.json'))}; continue with --resume",
        soft_wrap=True,
    )
    raise typer.Exit(INTERRUPTED)


def _estimator(evaluator: PlanEvaluator, lre: str, workers: int | None) -> SynopsEstimator:
    """The estimator asked for; a missing fit is made first, and kept for the next time."""
    from spear_gym.envs_registry.fits import stored_lre, user_path
    from spear_gym.target import make_estimator

    stored = stored_lre(evaluator) if lre == "auto" else None
    if lre == "auto" and stored is None:
        path = user_path(evaluator)
        out.print(
            f"no LRE fit for workload '{evaluator.workload.name}' with scoring "
            f"'{evaluator.scoring}': fine-tuning {LRE_SAMPLES} random plans first",
            soft_wrap=True,
        )
        _fit(evaluator, LRE_SAMPLES, 0, 0, workers, path)
        stored = stored_lre(evaluator)
    return make_estimator(evaluator, lre, stored)


def show_report(report: SearchReport, evaluator: PlanEvaluator, target: float) -> None:
    """Prints the result of a search: unpruned, predicted and measured."""
    search, candidate = report.search, report.candidate
    unpruned, measured = report.unpruned, report.measured
    predicted_synops = candidate.predicted_fraction * evaluator.reference.synops
    table = Table(title=f"{evaluator.workload.name}: target {target:.3f} of the unpruned SynOps")
    for column in ("", "accuracy", "SynOps", "fraction", "of target", "parameters"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(*_row("unpruned (test)", unpruned, 1.0, target))
    table.add_row(
        "predicted (search)",
        f"{candidate.accuracy:.4f} before fine-tuning",
        f"{predicted_synops:,.0f}",
        f"{candidate.predicted_fraction:.4f}",
        f"{candidate.ratio:.1%}",
        f"{candidate.evaluation.parameters:,}",
    )
    table.add_row(*_row("measured (test)", measured, report.fraction, target))
    out.print(table)
    widths = ", ".join(
        f"{group.name} {kept}/{group.channels}"
        for group, kept in zip(evaluator.space.groups, candidate.evaluation.counts, strict=True)
    )
    out.print(f"channels kept: {widths}", soft_wrap=True)
    out.print(
        f"paid evaluations: {search.paid} ({search.episodes} episodes, {search.runs} simulator "
        f"runs); plans fine-tuned: {report.tuned_plans}",
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
    kept = report.fraction <= target
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
    from spear_gym.agents.pipeline import RunError, load_network, read_result, read_settings
    from spear_gym.workload import measure

    settings = read_settings(run)
    result = read_result(run)
    _set_threads(settings.threads)
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
    for column in ("", "accuracy", "SynOps", "fraction", "of target", "parameters"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(*_row("unpruned (test)", unpruned, 1.0, target))
    table.add_row(*_row("measured (test)", measured, fraction, target))
    out.print(table)
    if (measured.accuracy, measured.synops, measured.parameters) != same:
        err.print(
            f"the recorded row differs: accuracy {same[0]}, SynOps {same[1]}, parameters {same[2]}"
        )
        raise typer.Exit(1)
    out.print("equal to the recorded row")


# -------------------------------------------------------------------- workloads


@app.command()
def workloads() -> None:
    """List the workloads of the catalogue."""
    from spear_gym.envs_registry import ENTRIES

    table = Table("workload", "environment", "time steps", "scoring", "fine-tune epochs")
    for entry in ENTRIES.values():
        table.add_row(
            entry.name,
            entry.environment,
            str(entry.num_steps),
            entry.scoring,
            str(entry.finetune.epochs),
        )
    out.print(table)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="Catalogue name.")],
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Weights file; NAME.safetensors here if unset.")
    ] = None,
) -> None:
    """Train a shipped workload's network again from scratch, as it was."""
    # One thread always: the order of floating-point sums depends on their number.
    _set_threads(1)
    from spear_gym.envs_registry import ENTRIES
    from spear_gym.files import write_tensors
    from spear_gym.workload import WorkloadError, unknown

    if name not in ENTRIES:
        raise WorkloadError(unknown("workload", name, tuple(ENTRIES)))
    entry = ENTRIES[name]
    path = out_path or Path(f"{name}.safetensors")
    _check_output(path)
    with _progress("loss {task.fields[loss]}") as progress:
        task = progress.add_task(f"pretrain {name}", total=None, loss="-")

        def show(done: int, total: int, loss: float) -> None:
            progress.update(task, completed=done, total=total, loss=f"{loss:.3f}")

        model = entry.train_network(show)
    write_tensors(path, dict(model.state_dict()))
    figures = entry.workload(model).reference("search")
    out.print(f"search accuracy {figures.accuracy:.4f}, SynOps {figures.synops:,.0f}; wrote {path}")


@app.command()
def lre(
    name: NameArgument,
    samples: Annotated[
        int, typer.Option(help="Random plans to fine-tune and fit to.")
    ] = LRE_SAMPLES,
    held_out: Annotated[int, typer.Option(help="Further plans to judge the fit on.")] = 12,
    scoring: ScoringOption = None,
    criterion: CriterionOption = "l1",
    seed: Annotated[int, typer.Option(help="Of the plans and fine-tunes.")] = 0,
    workers: WorkersOption = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="File of the fit; the user's cache if unset.")
    ] = None,
) -> None:
    """Fit LRE: predict SynOps after fine-tuning from those before."""
    _set_threads(1)
    from spear_gym.envs_registry.fits import user_path
    from spear_gym.evaluation import PlanEvaluator

    evaluator = PlanEvaluator(
        resolve_workload(name),
        scoring=scoring,  # type: ignore[arg-type]
        criterion=criterion,
    )
    path = out_path or user_path(evaluator)
    _check_output(path)
    _fit(evaluator, samples, held_out, seed, workers, path)


def _fit(
    evaluator: PlanEvaluator,
    samples: int,
    held_out: int,
    seed: int,
    workers: int | None,
    path: Path,
) -> None:
    from spear_gym.files import write_json
    from spear_gym.lre import Sample
    from spear_gym.lre_fit import fit_lre
    from spear_gym.tasks import default_workers

    count = default_workers() if workers is None else workers
    with _progress() as progress:
        task = progress.add_task("fine-tune random plans", total=samples + held_out)

        def show(_: Sample | None) -> None:
            progress.advance(task)

        fit = fit_lre(
            evaluator,
            samples=samples,
            held_out=held_out,
            seed=seed,
            workers=count,
            on_sample=show,
        )
    write_json(path, fit.to_json())
    out.print(f"after = {fit.weight:.4f} * before + {fit.intercept:.4f} (fractions of unpruned)")
    for label, quality in (("fit", fit.fit), ("held out", fit.held_out)):
        if quality is not None:
            out.print(
                f"{label}: R2 {quality.r2:.4f}, mean absolute error "
                f"{quality.mean_absolute_error:.4f}, residual spread {quality.residual_std:.4f} "
                f"({quality.samples} plans)"
            )
    out.print(f"wrote {path}", soft_wrap=True)


@app.command("score-study")
def score_study_command(
    name: NameArgument,
    plans: Annotated[int, typer.Option(help="Plans near one SynOps value, and over all.")] = 30,
    fraction: Annotated[float, typer.Option(help="The one SynOps value, a fraction.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of the plans and fine-tunes.")] = 0,
    criterion: CriterionOption = "l1",
    each: Annotated[
        bool, typer.Option("--each", help="Fine-tune from each scoring's network, not just one.")
    ] = False,
    workers: WorkersOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "runs/score-study"
    ),
) -> None:
    """Measure whether each way of scoring predicts the accuracy after fine-tuning."""
    _set_threads(1)
    from spear_gym.files import write_bytes, write_json
    from spear_gym.report.score_picture import score_png
    from spear_gym.score_study import VALID, ScoredPlan, score_study
    from spear_gym.tasks import default_workers

    stem = out_folder / name.replace(":", "-")
    _check_output(stem.with_suffix(".json"))
    workload = resolve_workload(name)
    count = default_workers() if workers is None else workers
    with _progress() as progress:
        task = progress.add_task("score and fine-tune", total=2 * plans)

        def show(_: tuple[ScoredPlan, ...]) -> None:
            progress.advance(task)

        study = score_study(
            workload,
            fraction=fraction,
            plans=plans,
            seed=seed,
            criterion=criterion,
            each=each,
            workers=count,
            on_plan=show,
        )
    table = Table(
        "plans", "scoring", "Spearman", "95 % interval", "s per plan", "accuracy after",
        title=f"{name}: does the score predict the accuracy after fine-tuning?",
    )  # fmt: skip
    for row in study.validity:
        where = f"{row.plans} near {fraction:g}" if row.group == "fixed" else f"{row.plans} spread"
        table.add_row(
            where,
            row.scoring,
            f"{row.spearman:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.seconds:.3f}",
            f"{row.mean_accuracy:.4f}",
        )
    out.print(table)
    weak = [r.scoring for r in study.validity if r.group == "fixed" and r.spearman < VALID]
    if weak:
        out.print(f"below {VALID} at fixed SynOps, so a search compares proxies: {', '.join(weak)}")
    write_json(stem.with_suffix(".json"), study.to_json())
    write_bytes(stem.with_suffix(".png"), score_png(study))
    out.print(f"wrote {stem}.json and .png", soft_wrap=True)


@app.command("spread-study")
def spread_study_command(
    name: NameArgument,
    plans: Annotated[int, typer.Option(help="Random plans near one SynOps value.")] = 12,
    seeds: Annotated[int, typer.Option(help="Fine-tunes of each.")] = 4,
    fraction: Annotated[float, typer.Option(help="The SynOps value, a fraction.")] = 0.3,
    workers: WorkersOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "runs/spread-study"
    ),
) -> None:
    """Measure whether a workload tells plans apart: spread between plans against seeds."""
    _set_threads(1)
    from spear_gym.files import write_json
    from spear_gym.spread_study import spread_study
    from spear_gym.tasks import default_workers

    workload = resolve_workload(name)
    count = default_workers() if workers is None else workers
    with _progress() as progress:
        task = progress.add_task("fine-tune", total=plans * seeds)
        study = spread_study(
            workload,
            fraction=fraction,
            plans=plans,
            seeds=seeds,
            workers=count,
            on_finetune=lambda: progress.advance(task),
        )
    out.print(
        f"{name}: accuracy after fine-tuning spreads by {study.plan_std:.4f} between "
        f"{len(study.plans)} plans and by {study.seed_std:.4f} between {seeds} seeds of one: "
        f"{study.ratio:.1f} times",
        soft_wrap=True,
    )
    path = out_folder / f"{name.replace(':', '-')}.json"
    write_json(path, study.to_json())
    out.print(f"wrote {path}", soft_wrap=True)


def resolve_workload(name: str) -> Workload:
    """A workload of the catalogue, or what ``module:function`` returns.

    Raises:
        WorkloadError: for an unknown name, or a function that cannot be imported or returns
            something else.
    """
    from spear_gym.workload import Workload, WorkloadError, load_workload

    if ":" not in name:
        import spear_gym.envs_registry  # noqa: F401 - registers the catalogue

        return load_workload(name)
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorkloadError(f"cannot import the workload '{name}': {error}") from error
    if not callable(function):
        raise WorkloadError(f"'{name}' is no function that returns a Workload")
    workload = function()
    if not isinstance(workload, Workload):
        raise WorkloadError(f"'{name}' gives a {type(workload).__name__}, not a Workload")
    return workload


def _reward_settings(pairs: list[str]) -> dict[str, float]:
    from spear_gym.reward import RewardError

    settings = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            settings[key] = float(json.loads(value))
        except (ValueError, TypeError):
            raise RewardError(
                f"reward setting '{pair}' is not of the form name=number, e.g. lam=10"
            ) from None
    return settings


def _check_output(path: Path) -> None:
    """Refuses an output file that cannot be written, before any work."""
    from spear_gym.agents.pipeline import RunError
    from spear_gym.files import check_writable

    try:
        check_writable(path)
    except OSError as error:
        raise RunError(f"cannot write '{path}': {error}") from error


def _set_threads(threads: int) -> None:
    import torch

    from spear_gym.agents.base import AgentError

    if threads < 1:
        raise AgentError(f"threads is {threads}; it must be at least 1")
    torch.set_num_threads(threads)


def _progress(extra: str = "") -> Progress:
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    if extra:
        columns.append(TextColumn(extra))
    return Progress(*columns, console=err)
