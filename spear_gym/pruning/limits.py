"""Limits of plans: one for all groups of channels, or by the name of a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spear_gym.boundary.text import unknown
from spear_gym.snn.graph import PrunableGroup

WholeLimit = int | Mapping[str, int]
RatioLimit = float | Mapping[str, float]


class LimitError(ValueError):
    """A limit is out of range, or of a group that there is none of."""


def check_names(setting: str, names: Iterable[Any], groups: tuple[PrunableGroup, ...]) -> None:
    """Sees that a setting names groups of a network.

    Raises:
        LimitError: for an unknown name, with near matches.
    """
    known = tuple(group.name for group in groups)
    for name in names:
        if name not in known:
            raise LimitError(f"{setting}: {unknown('group of channels', str(name), known)}")


def whole_limits(
    setting: str, value: WholeLimit, groups: tuple[PrunableGroup, ...]
) -> tuple[int, ...]:
    """A limit of channels for each group; those that are not named have 1.

    Raises:
        LimitError: when it is no whole number, or not in 1 to a group's channels.
    """
    if not isinstance(value, Mapping):
        narrowest = min(groups, key=lambda group: group.channels)
        named = f"the narrowest group '{narrowest.name}'"
        _check_whole(setting, value, narrowest.channels, named)
        return (value,) * len(groups)
    check_names(setting, value, groups)
    for group in groups:
        if group.name in value:
            named = f"group '{group.name}'"
            _check_whole(f"{setting} of {named}", value[group.name], group.channels, named)
    return tuple(value.get(group.name, 1) for group in groups)


def _check_whole(what: str, value: Any, most: int, whose: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise LimitError(f"{what} is {value}; it must lie in 1..{most}, the channels of {whose}")


def ratio_limits(
    value: RatioLimit, groups: tuple[PrunableGroup, ...], default: float
) -> tuple[float, ...]:
    """The largest prune ratio of each group.

    Args:
        value: one in (0, 1) for all, or some in [0, 1) by name; 0 keeps a group whole.
        groups: the groups.
        default: of those that are not named.

    Raises:
        LimitError: when one is out of range.
    """
    if not isinstance(value, Mapping):
        if not 0.0 < value < 1.0:
            raise LimitError(f"max_ratio is {value}; it must lie inside (0, 1)")
        return (value,) * len(groups)
    check_names("max_ratio", value, groups)
    for name, ratio in value.items():
        if not _is_number(ratio) or not 0.0 <= ratio < 1.0:
            raise LimitError(f"max_ratio of group '{name}' is {ratio}; it must lie in [0, 1)")
    return tuple(float(value.get(group.name, default)) for group in groups)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: RatioLimit) -> str:
    """A limit as it may stand in a message."""
    if not isinstance(value, Mapping):
        return f"{value:g}"
    return ", ".join(f"{name}: {limit:g}" for name, limit in value.items()) or "none"
