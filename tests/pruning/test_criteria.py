"""Criteria against slow loops, their sums over tied layers, and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from networks import LoopNet, ResidualNet, StepNet, enlivened
from torch import Tensor, nn

from spear_gym.pruning.criteria import CRITERIA, CriterionError, rank_channels
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace


def ranked(scores: list[float]) -> tuple[int, ...]:
    """Highest first, ties to the lower index, written out."""
    left = list(range(len(scores)))
    order = []
    while left:
        best = left[0]
        for channel in left[1:]:
            if scores[channel] > scores[best]:
                best = channel
        order.append(best)
        left.remove(best)
    return tuple(order)


def filters(weight: Tensor) -> list[list[float]]:
    return [channel.flatten().tolist() for channel in weight.detach().double()]


def l1_by_hand(weight: Tensor) -> list[float]:
    return [sum(abs(w) for w in channel) for channel in filters(weight)]


def step_graph() -> SpikingGraph:
    return trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16))


def test_l1() -> None:
    graph = step_graph()
    model: Any = graph.model
    expected = tuple(ranked(l1_by_hand(layer.weight)) for layer in (model.conv1, model.conv2))
    assert rank_channels(graph, "l1") == expected


def test_bn_scale_reads_the_norm_behind_the_layer() -> None:
    graph = step_graph()
    model: Any = graph.model
    model.bn1.weight.data[0] = -5.0  # strong, whatever its sign
    expected = tuple(ranked([abs(g) for g in bn.weight.tolist()]) for bn in (model.bn1, model.bn2))
    assert expected[0][0] == 0
    assert rank_channels(graph, "bn_scale") == expected


def test_taylor() -> None:
    graph = step_graph()
    gradients = {name: torch.randn_like(p) for name, p in graph.model.named_parameters()}
    expected = []
    for name in ("conv1.weight", "conv2.weight"):
        weight = filters(graph.model.get_parameter(name))
        slopes = filters(gradients[name])
        expected.append(
            ranked(
                [
                    abs(sum(w * g for w, g in zip(ws, gs, strict=True)))
                    for ws, gs in zip(weight, slopes, strict=True)
                ]
            )
        )
    assert rank_channels(graph, "taylor", gradients=gradients) == tuple(expected)


def test_taylor_is_computed_from_signed_products() -> None:
    """|sum of w * g|, not the sum of |w * g|: opposite contributions cancel."""
    graph = step_graph()
    model: Any = graph.model
    model.conv1.weight.data[:] = 1.0
    gradient = torch.zeros_like(model.conv1.weight)
    gradient[0, 0, 0, :2] = torch.tensor([100.0, -100.0])
    gradient[1, 0, 0, 0] = 1.0
    gradients = {"conv1.weight": gradient, "conv2.weight": torch.ones_like(model.conv2.weight)}
    assert rank_channels(graph, "taylor", gradients=gradients)[0][0] == 1


def test_random_is_seeded() -> None:
    graph = step_graph()
    orders = [rank_channels(graph, "random", seed=seed) for seed in range(6)]
    assert orders[0] == rank_channels(graph, "random", seed=0)
    assert len(set(orders)) == 6
    for order in orders:
        assert [sorted(channels) for channels in order] == [list(range(6)), list(range(8))]


@pytest.mark.parametrize("criterion", ["l1", "bn_scale"])
def test_ties_go_to_the_lower_index(criterion: str) -> None:
    graph = step_graph()
    model: Any = graph.model
    for layer in (model.conv1, model.conv2, model.bn1, model.bn2):
        layer.weight.data[:] = 0.25
    model.conv1.weight.data[4] = 0.5
    model.bn1.weight.data[4] = 0.5
    assert rank_channels(graph, criterion) == ((4, 0, 1, 2, 3, 5), (0, 1, 2, 3, 4, 5, 6, 7))


def test_zero_weights_rank_like_equal_ones() -> None:
    graph = step_graph()
    nn.init.zeros_(graph.model.get_parameter("conv1.weight"))
    assert rank_channels(graph, "l1")[0] == (0, 1, 2, 3, 4, 5)


def test_ranking_is_done_in_float64() -> None:
    graph = step_graph()
    weight = graph.model.get_parameter("conv1.weight")
    # 1 + 8 * 2^-27 per filter: in float32 the small ones vanish one by one.
    with torch.no_grad():
        weight.fill_(2.0**-27)
        weight[:, 0, 0, 0] = 1.0
        weight[3, 0, 0, 1] = 2.0**-26
    assert rank_channels(graph, "l1")[0][0] == 3


def test_tied_layers_add_up_after_division_by_their_mean() -> None:
    graph = trace(enlivened(ResidualNet()), torch.rand(4, 1, 8, 8))
    model: Any = graph.model
    model.stem.weight.data *= 100  # a layer's scale must not decide for the group
    totals = [0.0] * 6
    for layer in (model.stem, model.conv1):
        scores = l1_by_hand(layer.weight)
        mean = sum(scores) / len(scores)
        totals = [total + score / mean for total, score in zip(totals, scores, strict=True)]
    assert rank_channels(graph, "l1")[0] == ranked(totals)
    assert rank_channels(graph, "l1")[0] != ranked(l1_by_hand(model.stem.weight))


def test_a_depthwise_layer_on_a_concatenation_scores_each_part_for_itself() -> None:
    def neuron() -> snn.Leaky:
        return snn.Leaky(0.5, init_hidden=True)

    net = LoopNet(
        lambda net, x: net.fc(
            net.lif2(
                net.both(torch.cat([net.lif1(net.conv(x)), net.lif3(net.other(x))], 1))
            ).flatten(1)
        ),
        other=nn.Conv2d(1, 4, 3, padding=1),
        both=nn.Conv2d(10, 10, 3, padding=1, groups=10),
        fc=nn.Linear(640, 3),
        lif2=neuron(),
        lif3=neuron(),
    )
    graph = trace(net, torch.rand(4, 1, 8, 8))
    shared = l1_by_hand(net.both.weight)
    expected = []
    for layer, part in ((net.conv, shared[:6]), (net.other, shared[6:])):
        own = l1_by_hand(layer.weight)
        expected.append(
            ranked(
                [
                    a / (sum(own) / len(own)) + b / (sum(part) / len(part))
                    for a, b in zip(own, part, strict=True)
                ]
            )
        )
    assert rank_channels(graph, "l1") == tuple(expected)


def test_errors() -> None:
    graph = step_graph()
    with pytest.raises(CriterionError, match=r"unknown criterion 'l2'; choose one of l1, bn_scale"):
        rank_channels(graph, "l2")
    with pytest.raises(CriterionError, match="'taylor' needs gradients on the calibration set"):
        rank_channels(graph, "taylor")
    with pytest.raises(CriterionError, match="'taylor' needs a gradient for 'conv1'"):
        rank_channels(graph, "taylor", gradients={})
    without = trace(LoopNet(lambda net, x: net.lif2(net.current(x))), torch.rand(4, 1, 8, 8))
    with pytest.raises(CriterionError, match=r"needs an affine BatchNorm right behind 'conv'"):
        rank_channels(without, "bn_scale")


def test_ranking_leaves_the_network_alone() -> None:
    graph = step_graph()
    before = {key: value.clone() for key, value in graph.model.state_dict().items()}
    gradients = {name: torch.randn_like(p) for name, p in graph.model.named_parameters()}
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - that nothing draws from it
    for criterion in CRITERIA:
        rank_channels(graph, criterion, gradients=gradients)
    assert all(torch.equal(before[k], v) for k, v in graph.model.state_dict().items())
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
