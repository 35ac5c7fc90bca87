"""``spear workloads`` and ``spear pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from spear_gym.cli.common import (
    app,
    out,
    print_table,
    progress_bar,
    set_threads,
)
from spear_gym.cli.outputs import PRETRAINED, check_output, is_weights


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
    print_table(table)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="Catalogue name.")],
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Weights file; NAME.safetensors here if unset.")
    ] = None,
) -> None:
    """Train a shipped workload's network again from scratch, seeded."""
    # One thread always: the order of floating-point sums depends on their number.
    set_threads(1)
    from spear_gym.boundary.files import write_tensors
    from spear_gym.boundary.text import unknown
    from spear_gym.envs_registry import ENTRIES
    from spear_gym.workload import WorkloadError

    if name not in ENTRIES:
        raise WorkloadError(unknown("workload", name, tuple(ENTRIES)))
    entry = ENTRIES[name]
    path = out_path or Path(f"{name}.safetensors")
    check_output(path, is_weights)
    with progress_bar("loss {task.fields[loss]}") as progress:
        task = progress.add_task(f"pretrain {name}", total=None, loss="-")

        def show(done: int, total: int, loss: float) -> None:
            progress.update(task, completed=done, total=total, loss=f"{loss:.3f}")

        model = entry.train_network(show)
    write_tensors(path, model.state_dict(), PRETRAINED)
    figures = entry.workload(model).reference("search")
    out.print(f"search accuracy {figures.accuracy:.4f}, SynOps {figures.synops:,.0f}; wrote {path}")
