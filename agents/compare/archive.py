"""What a comparison's archive may hold; nothing in it is believed unseen."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from spear_gym.agents.base import AgentError
from spear_gym.agents.reading import at_least_1, share
from spear_gym.boundary.fields import Fields, shown
from spear_gym.boundary.files import FileError, file_name
from spear_gym.env.observation import check_features
from spear_gym.lre.samples import MOST_FRACTION
from spear_gym.settings import parted
from spear_gym.simulation.simulate import PRECISIONS, SCORINGS

from .cells import Cell, CompareSettings

MOST_CELLS = 100_000
MOST_BUDGET = 1_000_000
MOST_POINTS = 100_000_000
"""Cells times budget: a report draws a curve of the budget's length for each."""

SMALLEST_TARGET = 1e-6
LARGEST = 1e12

LONGEST_NAME = 200
LONGEST_FAILURE = 100_000


def check_size(settings: CompareSettings) -> None:
    """Refuses a comparison that could not be read again, before any cell is run.

    Raises:
        AgentError: when it has too many cells, or too large a budget.
    """
    lists = (settings.workloads, settings.agents, settings.targets)
    cells = settings.seeds
    for given in lists:
        cells *= len(given)
    if cells > MOST_CELLS:
        raise AgentError(f"the comparison has {cells:,} cells; it may have {MOST_CELLS:,}")
    if settings.budget > MOST_BUDGET or cells * settings.budget > MOST_POINTS:
        raise AgentError(
            f"budget is {settings.budget:,} for each of {cells:,} cells; it may be at most "
            f"{min(MOST_BUDGET, MOST_POINTS // max(cells, 1)):,} (or give fewer cells)"
        )


def read_settings(given: Fields) -> CompareSettings:
    """What a comparison was asked for; versions before 0.1 wrote fewer entries.

    Raises:
        ValueError: a subclass that names what cannot be.
    """

    def names(key: str) -> tuple[str, ...]:
        found = given.texts(key, LONGEST_NAME)
        if not found or len(set(found)) < len(found):
            raise given.wrong(key, "a list of names, each once, and at least one")
        for name in found:
            file_name(name)
        return found

    def targets(key: str) -> tuple[float, ...]:
        found = given.numbers(key, SMALLEST_TARGET, 1.0)
        if not found or len(set(found)) < len(found):
            raise given.wrong(key, "a list of numbers, each once, and at least one")
        return found

    def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
        return lambda key: None if given.value(key) is None else read(key)

    def reward_settings(key: str) -> dict[str, float]:
        asked = given.mapping(key)
        return {name: asked.number(name, -LARGEST, LARGEST) for name in asked.names()}

    read: dict[str, Callable[[str], Any]] = {
        "workloads": names,
        "agents": names,
        "targets": targets,
        "seeds": lambda key: given.whole(key, 1, MOST_CELLS),
        "budget": lambda key: given.whole(key, 1, MOST_BUDGET),
        "reward": lambda key: given.text(key, LONGEST_NAME),
        "reward_settings": reward_settings,
        "scoring": optional(lambda key: given.choice(key, SCORINGS)),
        "lre": given.text,
        "confidence": optional(lambda key: given.number(key, 0.0, 1.0)),
        "hidden_features": given.texts,
        "precision": lambda key: given.choice(key, PRECISIONS),
        "criterion": lambda key: given.text(key, LONGEST_NAME),
        "channel_multiple": lambda key: at_least_1(given, key),
        "min_channels": lambda key: at_least_1(given, key),
        "max_ratio": lambda key: share(given, key),
        "exclude": given.texts,
        "extrapolate": given.flag,
    }
    given.only(read)
    for key in ("workloads", "agents", "targets"):
        given.value(key)
    values: dict[str, Any] = {key: read[key](key) for key in given.names()}
    settings = CompareSettings(**parted(values))
    check_size(settings)
    check_features(settings.hidden_features)
    settings.goal.shape()
    return settings


def check_records(rows: list[Any], settings: CompareSettings, name: str) -> list[dict[str, Any]]:
    """The records of cells.

    Args:
        rows: what stands in the archive.
        settings: of the comparison.
        name: what the archive is called in messages.

    Raises:
        FileError: when one is damaged, of no cell of this comparison, or there twice.
    """
    waiting = set(settings.cells())
    for place, row in enumerate(rows):
        given = Fields(row, f"{name}, record {place}")
        cell = check_record(given, settings.budget)
        if cell not in waiting:
            raise FileError(f"{name} is damaged: '{cell}' is no cell of it, or is there twice")
        waiting.remove(cell)
    return rows


def check_record(given: Fields, budget: int) -> Cell:
    """Sees that a record can be that of a cell, see ``cells.record_of``.

    Args:
        given: the record.
        budget: of the comparison.

    Raises:
        FileError: naming what cannot be.
    """
    cell = read_cell(given.mapping("cell"))
    for key in ("paid", "charged", "episodes", "simulator_runs", "lre_samples"):
        given.whole(key, 0, 10**12)
    for key in ("seconds", "search_seconds", "evaluation_seconds", "max_ratio"):
        given.number(key, 0.0, LARGEST)
    given.text("charged_for")
    given.flag("updated")
    spent = given.wholes("spent", 1, budget)
    if not spent or any(later <= earlier for earlier, later in pairwise(spent)):
        raise given.wrong("spent", "ascending, with one value at least")
    points = len(spent)
    given.numbers("accuracy", 0.0, 1.0, length=points)
    for key in ("synops_fraction", "predicted_fraction"):
        given.numbers(key, 0.0, MOST_FRACTION, length=points)
    channels = given.wholes("channels", 1, 10**9)
    if len(given.texts("groups")) != len(channels) or not channels:
        raise given.wrong("groups", "as many as channels, and one at least")
    for plan in (*given.items("plans", points), given.value("plan")):
        _check_plan(plan, channels, given)
    for key in ("test_accuracy", "unpruned_accuracy"):
        given.number(key, 0.0, 1.0)
    kept = given.number("test_fraction", 0.0, MOST_FRACTION) <= cell.target
    if given.flag("kept") != kept:
        raise given.wrong("kept", f"{kept}, by its fraction on test")
    return cell


def _check_plan(plan: Any, channels: tuple[int, ...], given: Fields) -> None:
    fits = isinstance(plan, list) and len(plan) == len(channels) and set(map(type, plan)) == {int}
    if not fits or min(plan) < 1 or not all(map(operator.le, plan, channels)):
        raise FileError(f"{given.name} is damaged: {shown(plan)} is no plan of {shown(channels)}")


def read_cell(given: Fields) -> Cell:
    """A cell of a record.

    Raises:
        FileError: naming what cannot be.
    """
    given.only(("workload", "agent", "target", "seed"))
    return Cell(
        file_name_of(given, "workload"),
        file_name_of(given, "agent"),
        given.number("target", 0.0, 1.0),
        given.whole("seed", 0, MOST_CELLS),
    )


def file_name_of(given: Fields, key: str) -> str:
    """A text that can be the name of a folder."""
    text = given.text(key, LONGEST_NAME)
    file_name(text)
    return text


def read_fingerprints(given: Fields, settings: CompareSettings) -> dict[str, dict[str, str]]:
    """The fingerprints by workload.

    Raises:
        FileError: when that of a workload, or of its data, is missing.
    """
    found = {name: given.mapping(name).text_of_each() for name in given.names()}
    for name in settings.workloads:
        given.mapping(name).text("data")
    return found
