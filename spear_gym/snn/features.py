"""From the features on a node's channel axis to the channels of a space, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from spear_gym.snn.graph import Segment


def spread_over_features(
    channels: tuple[Segment, ...], values: Mapping[int, Tensor], default: float
) -> Tensor | None:
    """A value per channel, repeated for every feature of the channel axis.

    Args:
        channels: the axis.
        values: channel space -> ``(channels of the space,)``.
        default: of the spaces that have no values.

    Returns:
        ``(features,)``, or ``None`` when no space of the axis has values.
    """
    given = [values[s.space] for s in channels if s.space in values]
    if not given:
        return None
    pieces = []
    for segment in channels:
        value = values.get(segment.space)
        if value is None:
            value = given[0].new_full((segment.size,), default)
        pieces.append(value.repeat_interleave(segment.repeat))
    return torch.cat(pieces)


def means_by_space(channels: tuple[Segment, ...], features: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The mean over each channel's features.

    Args:
        channels: the axis.
        features: ``(features,)``.

    Yields:
        Channel space and ``(channels of the space,)``, once for every segment of the axis.
    """
    offset = 0
    for segment in channels:
        width = segment.size * segment.repeat
        yield (
            segment.space,
            features[offset : offset + width].view(segment.size, segment.repeat).mean(1),
        )
        offset += width
