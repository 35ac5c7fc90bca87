"""What a tensor of a recorded forward stands for, and the algebra of recordings over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from spear_gym.snn.graph import Axis, Port
from spear_gym.snn.operations import Expression


@dataclass(frozen=True, slots=True)
class Step:
    """The output of a draft at one time step.

    Attributes:
        draft: which one.
        port: what of it.
        step: the time step, ``None`` where it is the same at every step.
        moved: its channels are the last axis of the tensor, not the second.
    """

    draft: int
    port: Port
    step: int | None
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """An output of a draft over steps 0..n-1: the input's frames, or a recording.

    Attributes:
        draft: which one.
        port: what of it.
        steps: how many.
        axis: where time is.
        scale: what a sum was multiplied by.
        static: it is the same at every step.
        moved: as for :class:`Step`.
        after: what was done to a sum afterwards, and leaves its order as it is (softmax).
    """

    draft: int
    port: Port
    steps: int
    axis: Axis
    scale: float = 1.0
    static: bool = False
    moved: bool = False
    after: tuple[Expression, ...] = ()

    @property
    def folded(self) -> bool:
        """Whether time and samples share the first axis."""
        return isinstance(self.axis, str)

    def at(self, step: int) -> Step:
        """One time step of it."""
        return Step(self.draft, self.port, None if self.static else step, self.moved)

    def of(self, step: Step) -> Series:
        """The same recording of another output."""
        return replace(self, draft=step.draft, port=step.port, moved=step.moved)


@dataclass(frozen=True, slots=True)
class Opaque:
    """A tensor that came out of something unknown; an error as soon as a layer reads it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that the network makes out of its own parameters, the same for every sample."""

    expression: Expression


@dataclass(slots=True)
class Buffer:
    """A recording tensor that is filled step by step (``rec[t] = spikes``)."""

    axis: int
    entries: dict[int, Step] = field(default_factory=dict)


Meaning = Step | Series | Opaque | Made | Buffer


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
    """Steps 0..n-1 of one output, in order, else ``None``; the same value n times is static."""
    steps = [buffer.entries.get(i) for i in range(len(buffer.entries))]
    if not steps or any(s is None for s in steps):
        return None
    first = steps[0]
    assert first is not None
    static = first.step is None
    for i, step in enumerate(steps):
        if step != replace(first, step=None if static else i):
            return None
    return Series(
        first.draft, first.port, len(steps), buffer.axis, static=static, moved=first.moved
    )


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
