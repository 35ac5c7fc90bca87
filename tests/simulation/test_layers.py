"""Layers that are computed in another way than the library's, against the library."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spear_gym.simulation.layers import channel_moments, normalise, pool

POOLS = [
    (kernel, *rest)
    for kernel, *rest in product([2, 3, (2, 1)], [1, 2, (2, 1)], [0, 1], [1, 2], [False, True])
    if kernel != (2, 1) or rest[1] == 0  # padding above half the kernel is an error
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "ceil"), POOLS)
@pytest.mark.parametrize("size", [(6, 8), (7, 6), (6, 7)])
def test_max_pooling(
    kernel: Any, stride: Any, padding: int, dilation: int, ceil: bool, size: tuple[int, int]
) -> None:
    function = partial(
        F.max_pool2d,
        kernel_size=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil,
    )
    value = torch.randn(3, 2, *size)
    assert torch.equal(pool(function, value), function(value))
    spikes = (value > 0).to(torch.uint8)
    assert torch.equal(pool(function, spikes), function(spikes.float()).to(torch.uint8))


def test_max_pooling_without_options_and_average_pooling() -> None:
    value = torch.randn(3, 2, 6, 8)
    for function in (partial(F.max_pool2d, kernel_size=2), partial(F.avg_pool2d, kernel_size=2)):
        assert torch.equal(pool(function, value), function(value))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("spatial", [(), (5,), (5, 4)])
def test_batch_norm(affine: bool, in_place: bool, spatial: tuple[int, ...]) -> None:
    kind = nn.BatchNorm2d if len(spatial) == 2 else nn.BatchNorm1d
    module = kind(3, eps=0.01, affine=affine).double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2.0)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    value = torch.randn(2, 4, 3, *spatial, dtype=torch.float64)
    given = value.clone()
    expected = module(value.flatten(0, 1)).unflatten(0, (2, 4))
    actual = normalise(module, tensors, value, in_place=in_place)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(value, given) is not in_place


@pytest.mark.parametrize("spatial", [(), (5,), (5, 4)])
def test_channel_moments(spatial: tuple[int, ...]) -> None:
    value = torch.randn(2, 4, 3, *spatial, dtype=torch.float64) + 100
    given = value.clone()
    mean, variance = channel_moments(value)
    per_channel = value.transpose(0, 2).flatten(1)
    torch.testing.assert_close(mean, per_channel.mean(1))
    torch.testing.assert_close(variance, per_channel.var(1, correction=0))
    assert torch.equal(value, given)
