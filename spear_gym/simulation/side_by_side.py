"""The same layer of several plans as one operation, for devices on which a launch costs more.

Plans differ in width, so their channels stand next to each other on one channel axis, each plan's
filled up to the width of the widest: plan n has the channels from n * width. Weights are filled up
with 0, and nothing reads what comes out of such a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spear_gym.simulation.layers import Affine, Tensors, connect
from spear_gym.snn.graph import Kind, Node


def connect_side_by_side(
    node: Node, module: nn.Module, tensors: Sequence[Tensors], sources: Sequence[Tensor]
) -> Tensor:
    """A convolution or linear layer of N plans.

    Args:
        node: the node.
        module: its module, for the geometry.
        tensors: (sliced) weight and bias of each plan.
        sources: what each plan's layer reads, ``(time, batch, channels, ...)``; one and the same
            tensor where the plans do not differ yet.

    Returns:
        ``(time, batch, N * width, ...)``, the width being the most output channels of a plan.
    """
    weight = beside([each["weight"] for each in tensors], 0)
    stacked = {"weight": weight.flatten(0, 1)}
    if "bias" in tensors[0]:
        stacked["bias"] = beside([each["bias"] for each in tensors], 0).flatten()
    shared = all(source is sources[0] for source in sources)
    if shared and sources[0].shape[2] == weight.shape[2]:  # not so in grouped convolutions
        return connect(node, module, stacked, sources[0])
    value = beside(sources, 2)
    if node.kind is not Kind.LINEAR:
        return connect(node, module, stacked, value.flatten(2, 3))
    out = torch.einsum("tbni,noi->tbno", value, weight).flatten(2)
    return out + stacked["bias"] if "bias" in stacked else out


def affine_side_by_side(affines: Sequence[Affine]) -> Affine:
    """Scales and shifts of N plans, each ``(N * width,)``."""
    scales, shifts = zip(*affines, strict=True)
    return beside(scales, 0).flatten(), beside(shifts, 0).flatten()


def neurons_side_by_side(tensors: Sequence[Tensors], dims: int) -> Tensors:
    """The parameters of a neuron layer of N plans.

    Args:
        tensors: (sliced) parameters of each plan.
        dims: axes of the layer's output, ``(channels, ...)``.
    """
    stacked: dict[str, Tensor] = {}
    for name, first in tensors[0].items():
        axis = first.dim() - dims
        if axis < 0 or first.shape[axis] == 1:
            stacked[name] = first  # the same for all channels, so for all plans
        else:
            stacked[name] = beside([each[name] for each in tensors], axis).flatten(axis, axis + 1)
    return stacked


def beside(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Stacks tensors at ``axis``, zeros filling up those that are smaller than others."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    out = tensors[0].new_zeros(*shape[:axis], len(tensors), *shape[axis:])
    for row, tensor in zip(out.unbind(axis), tensors, strict=True):
        row[tuple(slice(size) for size in tensor.shape)] = tensor
    return out
