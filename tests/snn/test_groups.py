"""Groups of layers that are pruned together, and Torch-Pruning's on the same networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from idioms import (
    MODULES,
    STEPS,
    conv,
    images,
    leaky,
    widths,
)
from networks import GroupNet, LoopNet, enlivened
from reference import random_plan, reset_own, run_plain
from torch import Tensor, nn

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import CONNECTIONS, SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net


def members(graph: SpikingGraph, group: str) -> list[str]:
    found = next(g for g in graph.groups if g.name == group)
    return [graph.nodes[index].name for index in found.members]


def test_groups_of_tied_layers() -> None:
    graph = trace(GroupNet(), images())
    # In the order of their first members; the classes of fc are never pruned.
    assert widths(graph) == {
        "stem": 8, "point": 6, "wide": 4, "before": 8, "grouped": 6, "hidden": 7,
    }  # fmt: skip
    assert {group.name for group in graph.groups if group.blocks == 2} == {"before", "grouped"}
    assert members(graph, "stem") == ["stem", "depthwise"]
    assert members(graph, "point") == ["point", "side"]
    assert members(graph, "wide") == ["wide"]
    order = [group.members[0] for group in graph.groups]
    assert order == sorted(order)


def test_groups_prune_to_the_same_spikes() -> None:
    graph = trace(enlivened(GroupNet(), 3), images())
    inputs = images(5)
    for seed in range(5):
        plan = random_plan(graph, seed)
        pruned = prune_network(graph, plan)
        own = run_plain(pruned, [inputs] * STEPS)
        torch.testing.assert_close(
            Simulator(graph, inputs, STEPS).run(plan).readout, own.outputs.mean(0)
        )
        assert pruned.stem.out_channels == pruned.depthwise.groups == len(plan.kept[0])
        assert pruned.before.in_channels == len(plan.kept[1]) + len(plan.kept[2])
        assert pruned.grouped.groups == 2


def test_an_addition_with_the_input_is_not_pruned() -> None:
    net = LoopNet(
        lambda net, x: net.fc(net.pool(net.lif1(x + net.same(net.lif3(net.conv(x))))).flatten(1)),
        conv=nn.Conv2d(6, 5, 3, padding=1),
        same=nn.Conv2d(5, 6, 3, padding=1),
        lif3=leaky(),
    )
    assert widths(trace(net, images(4, 6, 8, 8))) == {"conv": 5}


def test_an_addition_whose_segments_do_not_line_up_is_not_pruned() -> None:
    net = LoopNet(
        lambda net, x: net.fc(
            net.pool(
                torch.cat([net.lif1(net.conv(x)), net.lif3(net.other(x))], 1)
                + net.lif4(net.whole(x))
            ).flatten(1)
        ),
        conv=nn.Conv2d(1, 2, 3, padding=1),
        other=nn.Conv2d(1, 4, 3, padding=1),
        whole=nn.Conv2d(1, 6, 3, padding=1),
        lif3=leaky(),
        lif4=leaky(),
    )
    assert trace(net, images()).groups == ()


def test_inputs_and_classes_are_in_no_group() -> None:
    for make, shape, varying in MODULES.values():
        graph = trace(make(), torch.rand(shape), varying=varying)
        pruned = {group.space for group in graph.groups}
        for fixed in (graph.nodes[0], graph.nodes[graph.output]):
            assert pruned.isdisjoint(segment.space for segment in fixed.channels)
        for group in graph.groups:
            assert all(graph.nodes[index].kind in CONNECTIONS for index in group.members)


# ------------------------------------------------------------------ groups by Torch-Pruning


def torch_pruning_groups(model: nn.Module, inputs: Tensor, classifier: nn.Module) -> set[Any]:
    """Sets of layers whose output channels Torch-Pruning would remove together."""
    tp = pytest.importorskip("torch_pruning")
    reset_own(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    names = {module: name for name, module in model.named_modules()}
    layers = [nn.Conv2d, nn.Linear]
    groups = graph.get_all_groups(ignored_layers=[classifier], root_module_types=layers)
    return {
        frozenset(
            names[dependency.target.module]
            for dependency, _ in group
            if graph.is_out_channel_pruning_fn(dependency.handler)
            and isinstance(dependency.target.module, tuple(layers))
        )
        for group in groups
    }


def test_groups_of_a_plain_network_by_torch_pruning() -> None:
    net = digits_net(0)
    graph = trace(net, images())
    ours = {frozenset(members(graph, group.name)) for group in graph.groups}
    assert ours == torch_pruning_groups(net, images(), net.classifier)


def residual(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif1(net.conv(x))
    hidden = hidden + net.lif3(net.same(hidden))
    hidden = net.lif4(net.depthwise(hidden))
    return net.lif2(net.fc(net.pool(net.lif5(net.other(hidden))).flatten(1)))


def test_groups_of_a_residual_network_by_torch_pruning() -> None:
    net = LoopNet(
        residual,
        same=conv(),
        depthwise=conv(groups=6),
        other=conv(),
        lif3=leaky(),
        lif4=leaky(),
        lif5=leaky(),
    )
    graph = trace(net, images())
    ours = {frozenset(members(graph, group.name)) for group in graph.groups}
    assert ours == {frozenset({"conv", "same", "depthwise"}), frozenset({"other"})}
    assert ours == torch_pruning_groups(net, images(), net.fc)
