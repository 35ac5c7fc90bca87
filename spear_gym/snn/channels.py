"""Which channels of a network are one and the same: spaces, segments and prunable groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm, prod

from torch import nn

from spear_gym.snn.drafts import Draft
from spear_gym.snn.graph import CONNECTIONS, Axis, Kind, Node, PrunableGroup, Segment
from spear_gym.snn.operations import Operation


@dataclass
class Spaces:
    """Union-find over channel spaces; a fixed space is never pruned.

    Attributes:
        parents: a space it was united with, or itself.
        fixed: space -> why it is never pruned.
        blocks: space -> runs of channels of which as many each must be kept, if more than one.
    """

    parents: list[int] = field(default_factory=list)
    fixed: dict[int, str] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)

    def new(self) -> int:
        """A space of its own."""
        self.parents.append(len(self.parents))
        return self.parents[-1]

    def find(self, space: int) -> int:
        """The space that stands for all that it was united with."""
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def union(self, left: int, right: int) -> None:
        """Makes two spaces one."""
        left, right = self.find(left), self.find(right)
        if left == right:
            return
        low, high = min(left, right), max(left, right)
        self.parents[high] = low
        if high in self.fixed:
            self.fixed.setdefault(low, self.fixed.pop(high))
        if high in self.blocks:
            self.divide(low, self.blocks.pop(high))

    def fix(self, segments: tuple[Segment, ...], reason: str) -> None:
        """Never prunes the channels of an axis."""
        for segment in segments:
            self.fixed.setdefault(self.find(segment.space), reason)

    def divide(self, space: int, blocks: int) -> None:
        """Keeps as many channels of each of so many blocks of a space."""
        space = self.find(space)
        self.blocks[space] = lcm(self.blocks.get(space, 1), blocks)

    def settle(self, segment: Segment) -> None:
        """Fixes a space whose blocks leave no choice."""
        space = self.find(segment.space)
        blocks = self.blocks.get(space, 1)
        if blocks == 1 or (segment.size % blocks == 0 and blocks < segment.size):
            return
        self.fixed.setdefault(
            space,
            f"the groups of grouped convolutions divide its {segment.size} channels into blocks of "
            "one, or unevenly",
        )


def assign_channels(
    drafts: tuple[Draft, ...], model: nn.Module, output: int, at_once: Mapping[int, Axis]
) -> tuple[tuple[Node, ...], Spaces]:
    """Gives every draft its channel axis.

    Args:
        drafts: the recorded operations, execution order.
        model: the traced module.
        output: index of the draft that is read out; its channels are the classes.
        at_once: of drafts that are computed for all time steps at once, where time is.

    Returns:
        The nodes, and their channel spaces.
    """
    spaces = Spaces()
    axes: list[tuple[Segment, ...]] = []
    for draft in drafts:
        axes.append(_axis(draft, axes, model, spaces))
    spaces.fix(axes[0], "the network's input")
    spaces.fix(axes[output], "the class outputs")
    for segment in (segment for axis in axes for segment in axis):
        spaces.settle(segment)
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
    return tuple(nodes), spaces


def _axis(
    draft: Draft, axes: list[tuple[Segment, ...]], model: nn.Module, spaces: Spaces
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
    draft: Draft, operation: Operation, sources: list[tuple[Segment, ...]], spaces: Spaces
) -> tuple[Segment, ...]:
    """Channels pass where that is proven; elsewhere those that are read are never pruned."""
    axis = sources[0]
    if operation.follows:
        for other in sources[1:]:
            axis = _tie(axis, other, spaces)
        return axis
    made = (Segment(spaces.new(), draft.shape[0]),)
    for axis in (*sources, made):
        spaces.fix(axis, f"'{draft.name}' mixes channels, or was not seen to keep them apart")
    return made


def _conv_axis(
    draft: Draft, source: tuple[Segment, ...], model: nn.Module, spaces: Spaces
) -> tuple[Segment, ...]:
    conv = model.get_submodule(str(draft.module))
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    if conv.groups == 1:
        return (Segment(spaces.new(), draft.shape[0]),)
    if conv.groups == conv.in_channels:
        # Depthwise: every channel has outputs of its own, which go with it.
        outputs = conv.out_channels // conv.in_channels
        return tuple(Segment(s.space, s.size, s.repeat * outputs) for s in source)
    axis = Segment(spaces.new(), draft.shape[0])
    spaces.divide(axis.space, conv.groups)
    if len(source) == 1 and source[0].size % conv.groups == 0:
        spaces.divide(source[0].space, conv.groups)
    else:
        reason = (
            f"'{draft.name}' reads them in {conv.groups} groups, which do not line up with them"
        )
        spaces.fix(source, reason)
    return (axis,)


def _tie(
    left: tuple[Segment, ...], right: tuple[Segment, ...], spaces: Spaces
) -> tuple[Segment, ...]:
    if [(s.size, s.repeat) for s in left] != [(s.size, s.repeat) for s in right]:
        # Segments that do not line up cannot be pruned alike, so neither side is pruned.
        for axis in (left, right):
            spaces.fix(axis, "an addition of channels that do not line up")
        return left
    for one, other in zip(left, right, strict=True):
        spaces.union(one.space, other.space)
    return left


def prunable_groups(nodes: tuple[Node, ...], spaces: Spaces) -> tuple[PrunableGroup, ...]:
    """The groups of channels that may be pruned, in the order of their first member."""
    members: dict[int, list[Node]] = {}
    for node in nodes:
        if node.kind in CONNECTIONS:
            for segment in node.channels:
                if segment.space not in spaces.fixed:
                    members.setdefault(segment.space, []).append(node)
    groups = []
    for space, connected in members.items():
        size = next(s.size for s in connected[0].channels if s.space == space)
        indices = tuple(node.index for node in connected)
        blocks = spaces.blocks.get(space, 1)
        groups.append(PrunableGroup(connected[0].name, space, size, indices, blocks))
    return tuple(groups)
