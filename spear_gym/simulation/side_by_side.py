"""The same layer of several plans as one operation, for devices on which a launch costs more.

Plans differ in width, so their channels stand next to each other on one channel axis, each plan's
filled up to the width of the widest: plan n has the channels from n * width. Weights are filled up
with 0, and nothing reads what comes out of such a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spear_gym.simulation.layers import Affine, Tensors, connect, fold, unfold
from spear_gym.snn.graph import Kind, Node


def connect_side_by_side(node: Node, module: nn.Module, stacked: Tensors, value: Tensor) -> Tensor:
    """A convolution or linear layer of N plans.

    Args:
        node: the node.
        module: its module, for the geometry.
        stacked: weight and bias of the plans, :func:`beside` each other.
        value: what the layer reads, ``(time, batch, N, channels, ...)``, or
            ``(time, batch, channels, ...)`` where all plans read the same.

    Returns:
        ``(time, batch, N * width, ...)``, the width being the most output channels of a plan.
    """
    weight, bias = stacked["weight"], stacked.get("bias")
    shared = value.dim() == weight.dim()
    if shared or node.kind is not Kind.LINEAR:
        flat = {name: tensor.flatten(0, 1) for name, tensor in stacked.items()}
        return connect(node, module, flat, value if shared else value.flatten(2, 3))
    rows, columns = fold(value).transpose(0, 1), weight.transpose(1, 2)
    # The bias within the product: in bfloat16 it would else be rounded twice.
    out = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)
    return unfold(out.transpose(0, 1).flatten(1), value)


def affine_side_by_side(affines: Sequence[Affine]) -> Affine:
    """Scales and shifts of N plans, each ``(N * width,)``."""
    scales, shifts = zip(*affines, strict=True)
    return beside(scales, 0).flatten(), beside(shifts, 0).flatten()


def neurons_side_by_side(neuron: nn.Module, tensors: Sequence[Tensors], dims: int) -> Tensors:
    """The parameters of a neuron layer of N plans.

    Args:
        neuron: the unpruned layer.
        tensors: (sliced) parameters of each plan.
        dims: axes of the layer's output, ``(channels, ...)``.
    """
    stacked: dict[str, Tensor] = {}
    for name, first in tensors[0].items():
        axis = first.dim() - dims
        if axis < 0 or getattr(neuron, name).shape[axis] == 1:
            stacked[name] = first  # one for all channels, so for all plans
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
