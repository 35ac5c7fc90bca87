"""``spear tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear_gym.cli.common import (
    MOST_SEEDS,
    app,
    check_count,
    numbers,
    out,
    progress_bar,
    set_threads,
)
from spear_gym.cli.options import (
    LREOption,
)
from spear_gym.cli.outputs import check_output, is_settings, with_entries


@app.command()
def tune(
    algorithm: Annotated[str, typer.Argument(help="ddpg, td3, sac, ...: see `spear agents`.")],
    workload: Annotated[str, typer.Option(help="On which one; compare on others.")] = "digits",
    targets: Annotated[str, typer.Option(help="SynOps fractions, separated by commas.")] = "0.3",
    trials: Annotated[int, typer.Option(help="Settings tried, the library's included.")] = 16,
    seeds: Annotated[int, typer.Option(help="Searches per trial and target.")] = 2,
    budget: Annotated[int, typer.Option(help="Paid evaluations of each search.")] = 200,
    lre: LREOption = "auto",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder; runs/tune-<algorithm> if unset.")
    ] = None,
) -> None:
    """Tune an algorithm's settings by Optuna's TPE; the same command goes on after a stop."""
    set_threads(1)
    from spear_gym.agents.algorithms import ENVIRONMENT
    from spear_gym.agents.tuning import TuningSettings, check_tuning
    from spear_gym.agents.tuning import tune as run_tuning
    from spear_gym.settings import Goal
    from spear_gym.workload import resolve_workload

    check_count("trials", trials, most=100_000)
    check_count("seeds", seeds, most=MOST_SEEDS)
    settings = TuningSettings(
        algorithm, workload, numbers(targets), trials, seeds, budget, goal=Goal(lre=lre)
    )
    check_tuning(settings)
    folder = out_folder or Path("runs") / f"tune-{algorithm}"
    check_output(folder / f"{algorithm}.yml", is_settings(ENVIRONMENT))
    check_output(folder / f"{algorithm}.tuning.json", with_entries("algorithm", "objective"))
    evaluator = settings.plans.evaluator(resolve_workload(workload))
    with progress_bar("best {task.fields[best]:.4f}") as progress:
        task = progress.add_task(f"tune {algorithm}", total=trials, best=0.0)
        best = [0.0]

        def show(value: float) -> None:
            best[0] = max(best[0], value)
            progress.update(task, advance=1, best=best[0])

        found = run_tuning(settings, evaluator, folder, on_trial=show)
    out.print(found)
    out.print(f"wrote {folder / f'{algorithm}.yml'} and its record", soft_wrap=True)
