"""Plans: which channels of each prunable group are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, lcm, prod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from spear_gym.boundary import fields
from spear_gym.boundary.files import parse_json, raised_as
from spear_gym.pruning.limits import (
    LimitError,
    RatioLimit,
    WholeLimit,
    ratio_limits,
    shown,
    whole_limits,
)
from spear_gym.snn.graph import PrunableGroup

PLAN_FORMAT = "spear-gym plan 1"

MAX_RATIO = 0.9
"""Largest prune ratio of groups for which none is given."""

_Value = TypeVar("_Value")


class PlanError(LimitError):
    """A plan, or the limits it is made under, do not fit the network."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The kept channel indices of every prunable group.

    Attributes:
        groups: group names in the order of decision.
        channels: unpruned number of channels of each group.
        kept: kept channel indices of each group, ascending.
    """

    groups: tuple[str, ...]
    channels: tuple[int, ...]
    kept: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Channels kept per group."""
        return tuple(len(kept) for kept in self.kept)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_json` reads them back."""
        return {
            "format": PLAN_FORMAT,
            "groups": [
                {"name": name, "channels": channels, "kept": list(kept)}
                for name, channels, kept in zip(self.groups, self.channels, self.kept, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """Reads :meth:`to_json`'s form.

        Raises:
            PlanError: when it is not such a form, or an index is out of range.
        """
        if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
            raise PlanError(f"this is no plan: its 'format' is not '{PLAN_FORMAT}'")
        try:
            groups = _typed(list, data["groups"])
            names = tuple(_typed(str, g["name"]) for g in groups)
            channels = tuple(_typed(int, g["channels"]) for g in groups)
            kept = tuple(tuple(_typed(int, i) for i in _typed(list, g["kept"])) for g in groups)
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the plan is damaged: {error!r}") from error
        for name, total, indices in zip(names, channels, kept, strict=True):
            if not indices or sorted(set(indices)) != list(indices):
                raise PlanError(f"group '{name}': kept indices must be ascending and not empty")
            if indices[0] < 0 or indices[-1] >= total:
                raise PlanError(f"group '{name}': kept indices must lie in 0..{total - 1}")
        return cls(names, channels, kept)

    @classmethod
    def loads(cls, text: str) -> Plan:
        """Reads a plan from JSON text; raises :class:`PlanError` when it is not one."""
        with raised_as(PlanError):
            data = parse_json(text.encode("utf-8", "surrogatepass"), "the plan")
        return cls.from_json(data)


def _typed(kind: type[_Value], value: Any) -> _Value:
    """A JSON value of exactly this type: 1.5, true and "1" are no channel index."""
    if type(value) is not kind:
        raise TypeError(f"{fields.shown(value)} is no {kind.__name__}")
    return value


@dataclass(frozen=True)
class PlanSpace:
    """All plans that an agent can choose from.

    A limit is one for all groups, or a mapping by a group's name; groups that it does not name have
    the default.

    Attributes:
        groups: the groups in the order of decision.
        rankings: for each group all channel indices, most important first.
        channel_multiple: kept counts are multiples of this (m in docs/definitions.md), and of the
            number of blocks of which a group keeps as many each.
        min_channels: fewest channels that a group keeps.
        max_ratio: largest prune ratio; 0 for a group by name keeps it whole.
    """

    groups: tuple[PrunableGroup, ...]
    rankings: tuple[tuple[int, ...], ...]
    channel_multiple: WholeLimit = 1
    min_channels: WholeLimit = 1
    max_ratio: RatioLimit = MAX_RATIO

    def __post_init__(self) -> None:
        if not self.groups:
            raise PlanError(
                "the network has no prunable layer, or all are excluded: network inputs "
                "and class outputs are never pruned; at least one hidden convolution or linear "
                "layer is needed (what is fixed, and why, is in graph.fixed)"
            )
        try:
            _ = self.ratios, self._multiples, self._fewest
        except LimitError as error:
            raise PlanError(str(error)) from error

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """Largest prune ratio of each group."""
        return ratio_limits(self.max_ratio, self.groups, MAX_RATIO)

    @property
    def largest_ratio(self) -> float:
        """Largest prune ratio of any group."""
        return max(self.ratios)

    @property
    def limits(self) -> str:
        """Largest prune ratio and fewest channels, for messages."""
        ratio, fewest = shown(self.max_ratio), shown(self.min_channels)
        return f"max_ratio = {ratio}, at least {fewest} channels kept"

    @cached_property
    def _multiples(self) -> tuple[int, ...]:
        given = whole_limits("channel_multiple", self.channel_multiple, self.groups)
        return tuple(lcm(m, group.blocks) for m, group in zip(given, self.groups, strict=True))

    @cached_property
    def _fewest(self) -> tuple[int, ...]:
        given = whole_limits("min_channels", self.min_channels, self.groups)
        return tuple(ceil(n / g.blocks) * g.blocks for n, g in zip(given, self.groups, strict=True))

    def __len__(self) -> int:
        return len(self.groups)

    def count(self, index: int, ratio: float) -> int:
        """Channels kept by group ``index`` at a prune ratio (docs/definitions.md, "Plan").

        The ratio passes through float32, so that every agent's ratios mean the same plan.
        """
        channels, m = self.groups[index].channels, self._multiples[index]
        ratio = float(np.float32(ratio))
        count = floor((1.0 - ratio) * channels / m + 0.5) * m
        return min(max(count, self._fewest[index]), channels)

    def counts(self, ratios: Sequence[float] | np.ndarray) -> tuple[int, ...]:
        """Channels kept per group at a vector of prune ratios, each clipped to [0, max_ratio].

        Raises:
            PlanError: for a wrong number of ratios or a NaN.
        """
        values = np.asarray(ratios, dtype=np.float64).reshape(-1)
        if len(values) != len(self):
            raise PlanError(f"{len(values)} ratios given; the network has {len(self)} groups")
        if not np.isfinite(values).all():
            raise PlanError(f"ratios must be finite numbers, got {values.tolist()}")
        clipped = np.clip(values, 0.0, self.ratios)
        return tuple(self.count(i, float(ratio)) for i, ratio in enumerate(clipped))

    @property
    def size(self) -> int:
        """Number of distinct plans."""
        choices = []
        for index, m in enumerate(self._multiples):
            smallest, largest = self.count(index, self.ratios[index]), self.count(index, 0.0)
            between = sum(smallest < multiple < largest for multiple in range(0, largest, m))
            choices.append(between + (1 if smallest == largest else 2))
        return prod(choices)

    def next_lower(self, index: int, count: int) -> int:
        """The largest count below ``count`` that group ``index`` may keep, else ``count``.

        What ``max_ratio`` allows is not looked at.
        """
        m = self._multiples[index]
        lower = max((count - 1) // m * m, self._fewest[index])
        return min(lower, count)

    def next_higher(self, index: int, count: int) -> int:
        """The smallest count above ``count`` that group ``index`` may keep, else ``count``."""
        m = self._multiples[index]
        return max(min((count // m + 1) * m, self.count(index, 0.0)), count)

    def widths(self, index: int) -> tuple[int, ...]:
        """All counts that a prune ratio can leave group ``index`` with, ascending."""
        found = [self.smallest_counts()[index]]
        while (higher := self.next_higher(index, found[-1])) > found[-1]:
            found.append(higher)
        return tuple(found)

    def kept(self, index: int, count: int) -> Tensor:
        """Kept channel indices of group ``index``, int64, ascending; as many of every block.

        Raises:
            PlanError: when a count is no multiple of the group's blocks.
        """
        group, ranking = self.groups[index], self.rankings[index]
        if count % group.blocks:
            raise PlanError(
                f"group '{group.name}' keeps {count} channels, but as many of each of its "
                f"{group.blocks} blocks are kept: give a multiple of {group.blocks}"
            )
        size, each = group.channels // group.blocks, count // group.blocks
        best = [
            channel
            for block in range(group.blocks)
            for channel in [c for c in ranking if c // size == block][:each]
        ]
        return torch.tensor(sorted(best), dtype=torch.int64)

    def plan(self, counts: Sequence[int]) -> Plan:
        """The plan that keeps the best-ranked channels of every group."""
        kept = tuple(tuple(self.kept(i, n).tolist()) for i, n in enumerate(counts))
        return Plan(
            tuple(group.name for group in self.groups),
            tuple(group.channels for group in self.groups),
            kept,
        )

    def from_ratios(self, ratios: Sequence[float] | np.ndarray) -> Plan:
        """The plan at a vector of prune ratios."""
        return self.plan(self.counts(ratios))

    def fewest_counts(self) -> tuple[int, ...]:
        """The fewest channels that each group may keep, whatever ``max_ratio`` is."""
        found = []
        for index, group in enumerate(self.groups):
            count = group.channels
            while (lower := self.next_lower(index, count)) < count:
                count = lower
            found.append(count)
        return tuple(found)

    def smallest_counts(self) -> tuple[int, ...]:
        """The counts at max_ratio everywhere."""
        return self.counts(self.ratios)


def kept_by_space(plan: Plan, groups: tuple[PrunableGroup, ...]) -> dict[int, Tensor]:
    """The plan as kept indices by channel space; groups that keep everything are left out.

    Raises:
        PlanError: when the plan was made for another network.
    """
    expected = tuple((group.name, group.channels) for group in groups)
    actual = tuple(zip(plan.groups, plan.channels, strict=True))
    if actual != expected:
        raise PlanError(f"the plan is for groups {actual}, the network has {expected}")
    for group, kept in zip(groups, plan.kept, strict=True):
        size = group.channels // group.blocks
        if len({sum(i // size == block for i in kept) for block in range(group.blocks)}) > 1:
            raise PlanError(
                f"group '{group.name}' must keep as many channels of each of its {group.blocks} "
                "blocks, which a grouped convolution reads or makes"
            )
    return {
        group.space: torch.tensor(kept, dtype=torch.int64)
        for group, kept in zip(groups, plan.kept, strict=True)
        if len(kept) < group.channels
    }
