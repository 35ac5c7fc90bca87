"""``spear evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spear_gym.cli.common import app, err, out, set_threads
from spear_gym.cli.tables import measured_row, result_table

FIGURES = ("accuracy", "synops", "parameters")

DIFFERS = 1
"""Exit status when a network measures otherwise than its run says."""


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    workload: Annotated[
        str | None,
        typer.Option(help="The run's workload; needed when it is a module:function of yours."),
    ] = None,
) -> None:
    """Load a run's pruned network again and reproduce the measured row of its table.

    A run folder never chooses what code is run: a workload that is no name of the catalogue is
    used when it is given here too.
    """
    from spear_gym.agents.reading import load_network, read_result, read_settings
    from spear_gym.workload import measure, resolve_workload

    settings = read_settings(run)
    name = _chosen(run, settings.workload, workload)
    result = read_result(run)
    set_threads(settings.threads)
    loaded = resolve_workload(name)
    model = load_network(run, loaded)
    measured, unpruned = measure(loaded, model, "test"), loaded.reference("test")
    fraction = measured.synops / unpruned.synops
    target = result["target"]
    table = result_table(loaded.name, target, loaded.objective.metric_name)
    table.add_row(*measured_row("unpruned (test)", unpruned, 1.0, target))
    table.add_row(*measured_row("measured (test)", measured, fraction, target))
    out.print(table)
    same = True
    for name, found in (("test", measured), ("test_unpruned", unpruned)):
        row = result[name]
        if (found.accuracy, found.synops, found.parameters) != tuple(row[n] for n in FIGURES):
            same = False
            figures = ", ".join(f"{n} {row[n]}" for n in FIGURES)
            err.print(f"the recorded row differs ({name}): {figures}")
    if not same:
        raise typer.Exit(DIFFERS)
    out.print("equal to the recorded row")


def _chosen(run: Path, recorded: str, given: str | None) -> str:
    """The workload to load: what the user gives, else the recorded name, never recorded code.

    Raises:
        RunError: when the run names a function and the user does not.
    """
    from spear_gym.agents.folders import RunError

    if given is None and ":" in recorded:
        raise RunError(
            f"the run in '{run}' was made with the workload '{recorded}', and no code is run "
            "because a file names it; if you trust that function, repeat it: spear evaluate "
            f"{run} --workload {recorded}"
        )
    return recorded if given is None else given
