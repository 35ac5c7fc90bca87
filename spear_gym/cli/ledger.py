"""``spear ledger``: what of a ledger is whole, and keeping it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from spear_gym.cli.common import app, out

if TYPE_CHECKING:
    from spear_gym.record.soundness import Examination

DAMAGED = 1
"""Exit status of ``spear ledger check`` when something is not whole."""

commands = typer.Typer(
    help="Look at a ledger, check it, repair it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(commands, name="ledger")

Where = Annotated[
    str, typer.Argument(help="A journal (ledger.log of a run folder), or a database's address.")
]


@commands.command()
def show(where: Where) -> None:
    """List the studies of a ledger: one for each search."""
    from spear_gym.record.mending import summaries

    table = Table()
    for column in ("study", "plans", "failed", "lost", "best reward in target", "last row"):
        table.add_column(column, justify="left" if column == "study" else "right")
    for study in summaries(where):
        table.add_row(
            _printable(study.name) + ("" if study.is_search else " (no search's)"),
            str(study.plans),
            str(study.failures),
            str(study.lost),
            "-" if study.best is None else f"{study.best:.4f}",
            "-" if study.last is None else f"{study.last:%Y-%m-%d %H:%M:%S}",
        )
    out.print(table)


@commands.command()
def check(
    where: Where,
    repair: Annotated[bool, typer.Option("--repair", help="As `spear ledger repair`.")] = False,
) -> None:
    """Say what of a ledger is not whole, by its line; the exit status is then 1."""
    from spear_gym.record.mending import examine

    if repair:
        mend(where)
        return
    found = examine(where)
    _say(where, found)
    if found.faults:
        raise typer.Exit(DAMAGED)


@commands.command(name="repair")
def mend(where: Where) -> None:
    """Keep what of a ledger is whole, beside a copy of all that was there."""
    from spear_gym.record.mending import repair

    found, copy = repair(where)
    _say(where, found)
    if copy:
        out.print(f"kept what is whole; the old one is {_printable(copy)}", soft_wrap=True)


def _say(where: str, found: Examination) -> None:
    from spear_gym.record.storage import shown

    for fault in found.faults:
        text = f"{fault.place}: it {fault.problem}"
        out.print(_printable(text), highlight=False, soft_wrap=True)
    if found.unfinished:
        out.print("the last line is unfinished; the next search cuts it off", soft_wrap=True)
    name = shown(where)
    state = f"damaged: {len(found.faults)} places" if found.faults else "whole"
    out.print(f"{name}: {found.rows} plans, {state}", highlight=False, soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
