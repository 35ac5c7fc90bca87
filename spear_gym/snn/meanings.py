"""What a tensor of a recorded forward stands for, and the algebra of recordings over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from spear_gym.snn.graph import Port


@dataclass(frozen=True, slots=True)
class Step:
    """The output of a draft at one time step (``None``: the same at every step)."""

    draft: int
    port: Port
    step: int | None


@dataclass(frozen=True, slots=True)
class Series:
    """An output of a draft over steps 0..n-1: stacked along ``axis``, or summed and scaled."""

    draft: int
    port: Port
    steps: int
    axis: int | None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Frames:
    """The whole input, time first, not yet indexed."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A tensor that came out of something unknown; an error as soon as a layer reads it."""

    reason: str


@dataclass(slots=True)
class Buffer:
    """A recording tensor that is filled step by step (``rec[t] = spikes``)."""

    axis: int
    entries: dict[int, Step] = field(default_factory=dict)


Meaning = Step | Series | Frames | Opaque | Buffer


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def is_zero(value: Any) -> bool:
    """Whether a number or tensor is zero throughout."""
    if isinstance(value, Tensor):
        return not bool((value != 0).any())
    return isinstance(value, int | float) and value == 0


def time_index(index: Any) -> tuple[int, int] | None:
    """(axis, position) of an index that names one position, ``None`` for others."""
    items = index if isinstance(index, tuple) else (index,)
    named = [(axis, item) for axis, item in enumerate(items) if isinstance(item, int)]
    rest = [i for i in items if not isinstance(i, int)]
    whole = all(i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in rest)
    if len(named) != 1 or not whole or (Ellipsis in rest and named[0][0] != 0):
        return None
    return named[0]


def series_of(buffer: Buffer) -> Series | None:
    """Steps 0..n-1 of one output, in order, else ``None``."""
    steps = [buffer.entries.get(i) for i in range(len(buffer.entries))]
    if not steps or any(s is None or s.step != i for i, s in enumerate(steps)):
        return None
    outputs = {(step.draft, step.port) for step in steps if step is not None}
    if len(outputs) > 1:
        return None
    draft, port = outputs.pop()
    return Series(draft, port, len(steps), buffer.axis)


def accumulate(left: Meaning | None, right: Meaning | None) -> Series | None:
    """A running sum over time, or ``None`` when the two are not steps of one output in order."""
    if not isinstance(right, Step) or right.step is None:
        return None
    if isinstance(left, Step) and left.step is not None:
        left = Series(left.draft, left.port, 1, None) if left.step == 0 else None
    if not isinstance(left, Series) or left.axis is not None or left.scale != 1.0:
        return None
    if (left.draft, left.port, left.steps) != (right.draft, right.port, right.step):
        return None
    return replace(left, steps=left.steps + 1)
