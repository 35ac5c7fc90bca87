"""Which channels of a network are one and the same: spaces, segments and prunable groups."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import nn

from spear_gym.snn.drafts import Draft
from spear_gym.snn.graph import CONNECTIONS, Axis, Kind, Node, PrunableGroup, Segment
from spear_gym.snn.operations import Operation


class _Spaces:
    """Union-find over channel spaces; a fixed space is never pruned."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.fixed: set[int] = set()

    def new(self) -> int:
        self.parents.append(len(self.parents))
        return self.parents[-1]

    def find(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def union(self, left: int, right: int) -> None:
        left, right = self.find(left), self.find(right)
        low, high = min(left, right), max(left, right)
        self.parents[high] = low
        if high in self.fixed:
            self.fixed.add(low)

    def fix(self, segments: tuple[Segment, ...]) -> None:
        self.fixed.update(self.find(segment.space) for segment in segments)


def assign_channels(
    drafts: tuple[Draft, ...], model: nn.Module, output: int, at_once: Mapping[int, Axis]
) -> tuple[tuple[Node, ...], frozenset[int]]:
    """Gives every draft its channel axis.

    Args:
        drafts: the recorded operations, execution order.
        model: the traced module.
        output: index of the draft that is read out; its channels are the classes.
        at_once: of drafts that are computed for all time steps at once, where time is.

    Returns:
        The nodes, and the spaces that are never pruned (network inputs, class outputs, channels
        around a convolution whose groups are neither one nor depthwise).
    """
    spaces = _Spaces()
    axes: list[tuple[Segment, ...]] = []
    for draft in drafts:
        axes.append(_axis(draft, axes, model, spaces))
    spaces.fix(axes[0])
    spaces.fix(axes[output])
    nodes: list[Node] = []
    uses: dict[str, int] = {}
    for index, (draft, axis) in enumerate(zip(drafts, axes, strict=True)):
        uses[draft.name] = uses.get(draft.name, 0) + 1
        name = draft.name if uses[draft.name] == 1 else f"{draft.name}#{uses[draft.name]}"
        segments = tuple(Segment(spaces.find(s.space), s.size, s.repeat) for s in axis)
        nodes.append(
            Node(
                index,
                draft.kind,
                name,
                draft.inputs,
                draft.module,
                draft.function,
                draft.shape,
                segments,
                draft.static,
                draft.analog,
                draft.neuron,
                draft.operation,
                draft.moved,
                at_once.get(index),
                draft.of_steps,
            )
        )
    return tuple(nodes), frozenset(spaces.find(space) for space in spaces.fixed)


def _axis(
    draft: Draft, axes: list[tuple[Segment, ...]], model: nn.Module, spaces: _Spaces
) -> tuple[Segment, ...]:
    sources = [axes[i] for i in draft.inputs]
    if draft.kind is Kind.INPUT or draft.kind is Kind.LINEAR:
        return (Segment(spaces.new(), draft.shape[0]),)
    if draft.kind is Kind.CONV:
        return _conv_axis(draft, sources[0], model, spaces)
    if draft.kind is Kind.CONCAT:
        return tuple(segment for axis in sources for segment in axis)
    if draft.kind is Kind.ADD:
        return _tie(sources[0], sources[1], spaces)
    if draft.kind is Kind.FLATTEN:
        features = sum(segment.size * segment.repeat for segment in sources[0])
        repeat = prod(draft.shape) // features
        return tuple(Segment(s.space, s.size, s.repeat * repeat) for s in sources[0])
    if draft.operation is not None:
        return _operation_axis(draft, draft.operation, sources, spaces)
    return sources[0]


def _operation_axis(
    draft: Draft, operation: Operation, sources: list[tuple[Segment, ...]], spaces: _Spaces
) -> tuple[Segment, ...]:
    """Channels pass where that is proven; elsewhere those that are read are never pruned."""
    axis = sources[0]
    if operation.follows:
        for other in sources[1:]:
            axis = _tie(axis, other, spaces)
        return axis
    for source in sources:
        spaces.fix(source)
    made = (Segment(spaces.new(), draft.shape[0]),)
    spaces.fix(made)
    return made


def _conv_axis(
    draft: Draft, source: tuple[Segment, ...], model: nn.Module, spaces: _Spaces
) -> tuple[Segment, ...]:
    conv = model.get_submodule(str(draft.module))
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    if conv.groups == 1:
        return (Segment(spaces.new(), draft.shape[0]),)
    if conv.groups == conv.in_channels == conv.out_channels:
        return source
    axis = (Segment(spaces.new(), draft.shape[0]),)
    spaces.fix(source)
    spaces.fix(axis)
    return axis


def _tie(
    left: tuple[Segment, ...], right: tuple[Segment, ...], spaces: _Spaces
) -> tuple[Segment, ...]:
    if [(s.size, s.repeat) for s in left] != [(s.size, s.repeat) for s in right]:
        # Segments that do not line up cannot be pruned alike, so neither side is pruned.
        spaces.fix(left)
        spaces.fix(right)
        return left
    for one, other in zip(left, right, strict=True):
        spaces.union(one.space, other.space)
    return left


def prunable_groups(nodes: tuple[Node, ...], fixed: frozenset[int]) -> tuple[PrunableGroup, ...]:
    """The groups of channels that may be pruned, in the order of their first member."""
    members: dict[int, list[Node]] = {}
    for node in nodes:
        if node.kind in CONNECTIONS:
            for segment in node.channels:
                if segment.space not in fixed:
                    members.setdefault(segment.space, []).append(node)
    groups = []
    for space, connected in members.items():
        size = next(s.size for s in connected[0].channels if s.space == space)
        indices = tuple(node.index for node in connected)
        groups.append(PrunableGroup(connected[0].name, space, size, indices))
    return tuple(groups)
