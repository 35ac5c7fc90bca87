"""Grouped convolutions: as many channels of each group, multipliers of depthwise ones tied."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from networks import enlivened
from reference import in_float64, random_plan, run_plain, slow_count
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan, PlanError, PlanSpace, kept_by_space
from spear_gym.pruning.resizing import resize_to_fit
from spear_gym.pruning.surgery import check_surgery, prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import Kind, SpikingGraph, kept_features
from spear_gym.snn.trace import trace

STEPS = 3


def lif() -> snn.Leaky:
    return snn.Leaky(0.6, threshold=0.3, init_hidden=True)


class Chain(nn.Module):
    """Convolutions one after the other on (1, 5, 5), each with its neurons or without."""

    def __init__(self, convolutions: list[tuple[int, int, bool]]) -> None:
        """Takes the outputs of each, its groups (0 for one per input), and if neurons follow."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, convolutions[0][0], 3, padding=1), lif()]
        width = convolutions[0][0]
        for outputs, groups, fires in convolutions[1:]:
            groups = groups or width
            layers.append(nn.Conv2d(width, outputs, 3, padding=1, groups=groups))
            layers += [nn.BatchNorm2d(outputs), lif()] if fires else []
            width = outputs
        self.layers = nn.Sequential(*layers)
        self.last = lif()
        self.fc = nn.Linear(width * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        current: Tensor = self.fc(self.last(self.layers(x)).flatten(1))
        return current


def traced(*convolutions: tuple[int, int, bool]) -> SpikingGraph:
    torch.manual_seed(1)
    return trace(enlivened(Chain(list(convolutions)), 3), torch.rand(4, 1, 5, 5))


def groups_of(graph: SpikingGraph) -> dict[str, tuple[int, int]]:
    return {group.name: (group.channels, group.blocks) for group in graph.groups}


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("convolutions", "expected"),
    [
        # Read in 2 groups: 2 blocks; made in 2 groups: 2 blocks.
        ([(8, 1, True), (6, 2, True)], {"layers.0": (8, 2), "layers.2": (6, 2)}),
        # Made in 2 groups and read in 3: 6 blocks.
        (
            [(8, 1, True), (12, 2, True), (6, 3, True)],
            {"layers.0": (8, 2), "layers.2": (12, 6), "layers.5": (6, 3)},
        ),
        # Depthwise with three outputs for each input: one group of eight.
        ([(8, 1, True), (24, 0, True)], {"layers.0": (8, 1)}),
        # The multiplied channels are read in 4 groups, of two channels of the eight each.
        (
            [(8, 1, True), (24, 0, False), (8, 4, True)],
            {"layers.0": (8, 4), "layers.3": (8, 4)},
        ),
        # Groups of one output each: nothing to choose among.
        ([(8, 1, True), (4, 4, True)], {"layers.0": (8, 4)}),
        # Six channels made in 2 groups and read in 4 (of 12 features, 3 each): no common blocks.
        (
            [(8, 1, True), (6, 2, False), (12, 0, False), (8, 4, True)],
            {"layers.0": (8, 2), "layers.4": (8, 4)},
        ),
    ],
)
def test_groups_by_hand(
    convolutions: list[tuple[int, int, bool]], expected: dict[str, tuple[int, int]]
) -> None:
    assert groups_of(traced(*convolutions)) == expected


def test_a_network_of_grouped_layers_only_can_be_pruned() -> None:
    """Two event polarities, each with convolutions of its own."""
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), lif(), nn.Conv2d(8, 8, 3, groups=2), lif(), nn.Flatten(),
        nn.Linear(8 * 9, 3),
    )  # fmt: skip
    graph = trace(enlivened(model, 3), torch.rand(4, 4, 7, 7), events=True)
    assert groups_of(graph) == {"0": (8, 2), "2": (8, 2)}
    space = PlanSpace(graph.groups, ((7, 6, 5, 4, 3, 2, 1, 0),) * 2)
    plan = space.from_ratios([0.5, 0.9])
    # The best two of 0..3 and of 4..7, then the best one of each.
    assert plan.kept == ((2, 3, 6, 7), (3, 7))
    pruned: Any = prune_network(graph, plan)
    assert (pruned[2].in_channels, pruned[2].out_channels, pruned[2].groups) == (4, 2, 2)
    whole = graph.model.get_parameter("2.weight")
    # Output 3 read inputs 0..3 and keeps 2, 3; output 7 read 4..7 and keeps 6, 7: 2 and 3 of them.
    assert torch.equal(pruned[2].weight[0], whole[3][[2, 3]])
    assert torch.equal(pruned[2].weight[1], whole[7][[2, 3]])


def test_counts_are_multiples_of_the_blocks() -> None:
    graph = traced((8, 1, True), (12, 2, True), (6, 3, True))
    rankings = tuple(tuple(range(group.channels)) for group in graph.groups)
    space = PlanSpace(graph.groups, rankings)
    assert [space.widths(index) for index in range(3)] == [(2, 4, 6, 8), (6, 12), (3, 6)]
    assert space.size == 4 * 2 * 2
    assert space.fewest_counts() == (2, 6, 3)
    assert PlanSpace(graph.groups, rankings, 4).widths(0) == (2, 4, 8)
    assert PlanSpace(graph.groups, rankings, 1, 3).fewest_counts() == (4, 6, 3)
    with pytest.raises(PlanError, match=r"'layers\.0' keeps 3 channels.*multiple of 2"):
        space.plan((3, 6, 3))
    with pytest.raises(PlanError, match=r"'layers\.0' must keep as many channels of each of its 2"):
        kept_by_space(
            Plan(("layers.0", "layers.2", "layers.5"), (8, 12, 6), ((0, 1), *rankings[1:])),
            graph.groups,
        )


def test_a_plain_depthwise_layer_has_no_blocks() -> None:
    assert groups_of(traced((8, 1, True), (8, 0, True))) == {"layers.0": (8, 1)}


# ------------------------------------------------------------------ at random


@st.composite
def chains(draw: Callable[..., Any]) -> list[tuple[int, int, bool]]:
    width = draw(st.sampled_from([4, 6, 8, 12]))
    found = [(width, 1, True)]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["grouped", "multiplied", "plain"]))
        if kind == "multiplied":
            outputs, groups = width * draw(st.integers(1, 3)), 0
        else:
            outputs = draw(st.sampled_from([4, 6, 8, 12]))
            common = gcd(width, outputs)
            divisors = [n for n in range(2, common + 1) if common % n == 0] or [1]
            groups = draw(st.sampled_from(divisors)) if kind == "grouped" else 1
        found.append((outputs, groups, draw(st.booleans())))
        width = outputs
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(chains(), st.integers(0, 99))
def test_pruned_groups_do_what_the_whole_ones_did(
    convolutions: list[tuple[int, int, bool]], seed: int
) -> None:
    """Spikes and SynOps are those of plain snnTorch; removed channels are silenced ones."""
    graph = traced(*convolutions)
    graph.model.double()
    plan = random_plan(graph, seed) if graph.groups else Plan((), (), ())
    inputs = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    measured = Simulator(graph, inputs, STEPS).run(plan)
    pruned = in_float64(prune_network(graph, plan))
    plain = run_plain(pruned, [inputs] * STEPS)
    torch.testing.assert_close(measured.readout, plain.outputs.mean(0), rtol=1e-9, atol=1e-12)
    analog = {node.name for node in graph.connections if node.analog}
    for name, seen in plain.inputs.items():
        count = slow_count(pruned.get_submodule(name), plain.shapes[name], seen, name in analog)
        assert (measured.layers[name].synops, measured.layers[name].macs) == (
            (0, count) if name in analog else (count, 0)
        )
    kept = kept_by_space(plan, graph.groups)
    for node in graph.nodes:
        if node.kind not in (Kind.CONV, Kind.NORM, Kind.NEURON):
            continue
        index = kept_features(node.channels, kept)
        graph.module(node).register_forward_hook(silencing(index))
    silenced = run_plain(in_float64(graph.model), [inputs] * STEPS)
    torch.testing.assert_close(silenced.outputs, plain.outputs, rtol=1e-9, atol=1e-12)
    event(f"{sum(group.blocks > 1 for group in graph.groups)} groups in blocks")
    state = pruned.state_dict()
    fresh = resize_to_fit(Chain(convolutions), state)
    fresh.load_state_dict(state)
    again = run_plain(in_float64(fresh.eval()), [inputs] * STEPS)
    assert torch.equal(again.outputs, plain.outputs)


def silencing(index: Tensor | None) -> Any:
    def hook(_module: nn.Module, _args: Any, spikes: Tensor) -> Tensor:
        if index is None:
            return spikes
        heard = torch.zeros_like(spikes)
        heard[:, index] = spikes[:, index]
        return heard

    return hook


def test_surgery_is_checked_with_whole_blocks() -> None:
    graph = traced((8, 1, True), (12, 2, True), (6, 3, True))
    check_surgery(graph, torch.rand(2, 1, 5, 5))
