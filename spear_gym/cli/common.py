"""What the commands share: the application, its options, progress bars and checks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

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
from rich.text import Text

from spear_gym.text import printable

if TYPE_CHECKING:
    from spear_gym.workload import Workload


app = typer.Typer(
    help="Prune spiking neural networks to a target of synaptic operations.",
    no_args_is_help=True,
    add_completion=False,
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

WorkloadOption = Annotated[str, typer.Option(help="Catalogue name, or module:function.")]
NameArgument = Annotated[str, typer.Argument(help="Catalogue name, or module:function.")]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes; all cores by default.")]
ThreadsOption = Annotated[int, typer.Option(help="Torch threads of this process.")]
ScoringOption = Annotated[
    str | None, typer.Option(help="plain, recalibrated or refit; the workload's default if unset.")
]
PrecisionOption = Annotated[str, typer.Option(help="Of scoring: float32 or bfloat16.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        help="Ledger elsewhere: a journal file, sqlite:///FILE or postgresql://HOST/NAME.",
        envvar="SPEAR_GYM_STORAGE",
    ),
]
CriterionOption = Annotated[str, typer.Option(help="l1, bn_scale, taylor or random.")]


def resolve_workload(name: str) -> Workload:
    """A workload of the catalogue, or what ``module:function`` returns.

    Raises:
        WorkloadError: for an unknown name, or a function that cannot be imported or returns
            something else.
    """
    from spear_gym.names import import_path
    from spear_gym.workload import Workload, WorkloadError, load_workload

    if ":" not in name:
        import spear_gym.envs_registry  # noqa: F401 - registers the catalogue

        return load_workload(name)
    try:
        function = import_path(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorkloadError(f"cannot import the workload '{name}': {error}") from error
    if not callable(function):
        raise WorkloadError(f"'{name}' is no function that returns a Workload")
    workload = function()
    if not isinstance(workload, Workload):
        raise WorkloadError(f"'{name}' gives a {type(workload).__name__}, not a Workload")
    return workload


def complain(what: str, message: str) -> None:
    """One line on standard error, ``what`` in bold; of a very long message its beginning."""
    short = " ".join(message.split())
    if len(short) > LONGEST_MESSAGE:
        short = f"{short[:LONGEST_MESSAGE]} ..."
    line = Text.assemble((what, "bold red"), " ", printable(short))
    err.print(line, highlight=False, soft_wrap=True)


def check_seed(seed: int) -> None:
    """Refuses a seed that NumPy and torch do not both take, before any work."""
    from spear_gym.agents.base import AgentError

    if not 0 <= seed < 2**32:
        raise AgentError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")


def worker_count(workers: int | None) -> int:
    """The number of worker processes, all cores by default.

    Raises:
        AgentError: below 1.
    """
    from spear_gym.agents.base import AgentError
    from spear_gym.workers.tasks import default_workers

    if workers is not None and workers < 1:
        raise AgentError(f"workers is {workers}; it must be at least 1")
    return default_workers() if workers is None else workers


def set_threads(threads: int) -> None:
    """Sets torch's threads (and the allocator) for this process; the library itself never does.

    Raises:
        AgentError: below 1.
    """
    from spear_gym.agents.base import AgentError
    from spear_gym.workers.processes import prepare_process

    if threads < 1:
        raise AgentError(f"threads is {threads}; it must be at least 1")
    prepare_process(threads)


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
            settings[key] = float(json.loads(value))
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
        TargetError: when one is no number.
    """
    from spear_gym.judge import TargetError

    try:
        return tuple(map(float, listed(text)))
    except ValueError:
        raise TargetError(f"{what} are '{text}'; they must be numbers, e.g. 0.5,0.3") from None


def agent_settings_of(pairs: list[str]) -> dict[str, Any]:
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
            # As it is written to the run folder: no dates, no sets.
            json.dumps(settings[key], allow_nan=False)
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):
            raise AgentError(
                f"agent setting '{cut(pair)}' is not of the form name=value, e.g. "
                "learning_rate=1e-3; values are finite numbers, texts, lists and mappings"
            ) from None
    return settings


def cut(text: str, most: int = 80) -> str:
    """A text as a message names it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _is_number(text: str) -> bool:
    """Whether a text is a number in exponent form."""
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower()
