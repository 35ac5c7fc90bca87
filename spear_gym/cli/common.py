"""What the commands share: the application, its options, progress bars and checks."""

from __future__ import annotations

import json
from importlib import metadata
from math import isfinite, nan
from shutil import get_terminal_size
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from spear_gym.boundary.text import cut, printable


class Commands(TyperGroup):
    """All commands; an interrupt ends them with a word."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted", "")
        raise typer.Exit(INTERRUPTED)


NARROW = 70
"""Columns below which nothing is put into boxes."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    # Rich cuts the names of options off where there is no room for its boxes.
    rich_markup_mode="rich" if get_terminal_size().columns >= NARROW else None,
    pretty_exceptions_enable=False,
)


class Terminal(Console):
    """A console to which names are names: no markup, no emoji codes, no control characters.

    Names come from files, paths and networks, so no text is taken for markup anywhere; what is to
    be seen is given a style.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as it will be shown, in tables too."""
        return super().render_str(printable(text), **options)


class PlainColumn(TextColumn):
    """A column of a progress bar to which names are names."""

    def render(self, task: Task) -> Text:
        """The text for a task."""
        return Text(printable(self.text_format.format(task=task)), style=str(self.style))


out = Terminal()
err = Terminal(stderr=True)
WARNING = "bold yellow"
LONGEST_MESSAGE = 2000


INTERRUPTED = 130
"""Exit status after Ctrl-C, TERM, or a terminal that hung up."""

MOST_THREADS = 1024
"""Torch ends in a segmentation fault when the system has no room for its threads."""

LONGEST_SETTING = 4096
MOST_SEEDS = 10_000
MOST_PLANS = 100_000

MOST_WORKERS = 1024
"""Each is a process of some hundred MiB."""


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"spear-gym {metadata.version('spear-gym')}", highlight=False)
        raise typer.Exit


@app.callback()
def spear(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Prune spiking neural networks to a target of synaptic operations."""


def complain(what: str, message: str) -> None:
    """One line on standard error, ``what`` in bold; of a very long message its beginning."""
    line = Text.assemble((what, "bold red"), " ", printable(cut(message, LONGEST_MESSAGE)))
    line.rstrip()
    err.print(line, highlight=False, soft_wrap=True)


def check_criterion(name: str) -> None:
    """Refuses a criterion that there is none of, before any work."""
    from spear_gym.boundary.text import unknown
    from spear_gym.pruning.criteria import CRITERIA, CriterionError

    if name not in CRITERIA:
        raise CriterionError(unknown("criterion", name, tuple(CRITERIA)))


def check_seed(seed: int) -> None:
    """Refuses a seed that NumPy and torch do not both take, before any work."""
    from spear_gym.agents.base import AgentError

    if not 0 <= seed < 2**32:
        raise AgentError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")


def check_count(name: str, value: int | None, least: int = 1, most: int = 1_000_000) -> None:
    """Refuses a number that no run could end with, before any work.

    Raises:
        AgentError: below ``least`` or above ``most``.
    """
    from spear_gym.agents.base import AgentError

    if value is not None and not least <= value <= most:
        raise AgentError(f"{name} is {value}; it must lie in {least}..{most:,}")


def worker_count(workers: int | None) -> int:
    """The number of worker processes, all cores by default.

    Raises:
        AgentError: when it is out of range.
    """
    from spear_gym.workers.tasks import default_workers

    check_count("workers", workers, most=MOST_WORKERS)
    return default_workers() if workers is None else workers


def set_threads(threads: int) -> None:
    """Sets torch's threads (and the allocator) for this process; the library itself never does.

    Raises:
        AgentError: when it is out of range.
    """
    from spear_gym.workers.processes import prepare_process

    check_count("threads", threads, most=MOST_THREADS)
    prepare_process(threads)


def print_table(table: Table) -> None:
    """Prints a table; where it does not fit, line by line what would be cut off."""
    if out.measure(table, options=out.options.update(width=10_000)).minimum <= out.width:
        out.print(table)
        return
    columns = [(str(column.header), list(column.cells)) for column in table.columns]
    if table.title:
        out.print(table.title, soft_wrap=True)
    for row in range(table.row_count):
        for header, cells in columns:
            out.print(f"{header}: " if header else "", cells[row], sep="", soft_wrap=True)
        out.print()


def progress_bar(extra: str = "") -> Progress:
    """A progress bar on standard error, ``extra`` being a further column."""
    columns: list[Any] = [
        PlainColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    if extra:
        columns.append(PlainColumn(extra))
    return Progress(*columns, console=err)


def reward_settings_of(pairs: list[str]) -> dict[str, float]:
    """``name=number`` pairs.

    Raises:
        RewardError: for anything else.
    """
    from spear_gym.reward import RewardError

    settings = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            number = json.loads(value)
            if type(number) is bool:
                raise ValueError
            settings[key] = float(number)
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise RewardError(
                f"reward setting '{cut(pair)}' is not of the form name=number, e.g. lam=10"
            ) from None
    return settings


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, what: str = "targets") -> tuple[float, ...]:
    """Numbers separated by commas.

    Raises:
        TargetError: when one is no finite number.
    """
    from spear_gym.judge import TargetError

    try:
        found = tuple(map(float, listed(text)))
    except ValueError:
        found = (nan,)
    if not all(map(isfinite, found)):
        raise TargetError(f"{what} are '{cut(text)}'; they must be numbers, e.g. 0.5,0.3")
    return found


def agent_settings_of(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; values in YAML, so that numbers, lists and mappings can be given."""
    import yaml

    from spear_gym.agents.base import AgentError

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            if not (key and equals) or len(value) > LONGEST_SETTING:
                raise ValueError
            # YAML 1.1 takes 1e-3 for a text.
            settings[key] = float(value) if _is_number(value) else yaml.safe_load(value)
            # As it is written to the run folder: no dates, no sets.
            json.dumps(settings[key], allow_nan=False)
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):
            raise AgentError(
                f"agent setting '{cut(pair)}' is not of the form name=value, e.g. "
                "learning_rate=1e-3; values are finite numbers, texts, lists and mappings"
            ) from None
    return settings


def _is_number(text: str) -> bool:
    """Whether a text is a number in exponent form."""
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower()
