"""What the values of an agent's settings may be, so that a search never fails on one later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, TypeVar

from spear_gym.boundary.text import shown

from .base import AgentError, check_settings

_Settings = TypeVar("_Settings")

MOST = 1_000_000
"""No count needs to be larger, for budgets have the same bound, nor any weight or factor."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values that a setting may have.

    Attributes:
        words: behind "it must be".
        holds: whether a value is one of them.
        taken: the value in the type that it is used in.
    """

    words: str
    holds: Callable[[Any], bool]
    taken: Callable[[Any], Any] = lambda value: value

    def __or__(self, other: Range) -> Range:
        return Range(
            f"{self.words} or {other.words}",
            lambda value: self.holds(value) or other.holds(value),
            lambda value: (self if self.holds(value) else other).taken(value),
        )


def check_values(
    agent: str, given: Mapping[str, Any], ranges: Mapping[str, Range]
) -> dict[str, Any]:
    """Refuses values of the wrong type or size; a setting without a range may be anything.

    Returns:
        The values in the types that they are used in.

    Raises:
        AgentError: naming the first that does not fit, and what it must be.
    """
    taken = dict(given)
    for name in (name for name in given if name in ranges):
        if not ranges[name].holds(given[name]):
            raise AgentError(
                f"setting '{name}' of agent '{agent}' is {shown(given[name])}; it must be "
                f"{ranges[name].words}"
            )
        taken[name] = ranges[name].taken(given[name])
    return taken


def with_changes(
    agent: str, settings: _Settings, changes: Mapping[str, Any], ranges: Mapping[str, Range]
) -> _Settings:
    """Settings with single ones changed, all of them looked at.

    Args:
        agent: for the message.
        settings: a frozen dataclass.
        changes: by name.
        ranges: of all of them.

    Raises:
        AgentError: for an unknown setting, with near matches, and for a value out of its range.
    """
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}  # type: ignore[arg-type]
    check_settings(agent, changes, tuple(values))
    values = check_values(agent, values | dict(changes), ranges)
    return replace(settings, **values)  # type: ignore[type-var]


def whole(low: int = 1, high: int = MOST) -> Range:
    """Whole numbers from ``low`` to ``high``; ``True`` is none."""

    def holds(value: Any) -> bool:
        return _is_a(Integral, value) and bool(low <= value <= high)

    return Range(f"a whole number in {low}..{high:,}", holds)


def real(low: float = -MOST, high: float = MOST, *, above: bool = False) -> Range:
    """Numbers from ``low`` to ``high``, or above ``low``; ``True`` is none."""

    def holds(value: Any) -> bool:
        if not _is_a(Real, value):
            return False
        return bool(low < value <= high if above else low <= value <= high)

    start = f"above {low:g} and at most" if above else f"in {low:g}.."
    return Range(f"a number {start}{' ' if above else ''}{high:,}", holds, float)


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is such a number; a truth value is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def choice(*names: str) -> Range:
    """One of some texts."""
    return Range(f"one of {', '.join(map(repr, names))}", lambda v: type(v) is str and v in names)


def made_by(words: str, kind: type | tuple[type, ...]) -> Range:
    """Objects that only Python code can give."""
    return Range(words, lambda value: isinstance(value, kind))


FLAG = Range("true or false", lambda value: isinstance(value, bool))
NOTHING = Range("null", lambda value: value is None)
MAPPING = Range("a mapping", lambda value: isinstance(value, dict))
FUNCTION = Range("a function (from Python only)", callable)
SHARE = real(0, 1)
POSITIVE = real(0, above=True)
RATE = real(0, 1, above=True)
NOT_NEGATIVE = real(0)
