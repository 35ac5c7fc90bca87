"""Several plans walked as one operation per layer against the same plans one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import TRACED, Made, OptionNet, enlivened
from reference import random_plan
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan, kept_by_space
from spear_gym.simulation.layers import connect
from spear_gym.simulation.refit import RefitTargets
from spear_gym.simulation.side_by_side import beside, connect_side_by_side
from spear_gym.simulation.simulate import Scoring, Simulator
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import Kind, Node, SpikingGraph
from spear_gym.snn.trace import trace

PLANS = 3


def simulator(graph: SpikingGraph, inputs: Tensor, steps: int, scoring: Scoring) -> Simulator:
    """In float64, in which sums of another order move no spike."""
    graph.model.double()
    calibration = inputs[:4].double()
    targets = None
    if scoring == "refit":
        currents = Simulator(graph, calibration, steps).classifier_currents()
        targets = RefitTargets.from_currents(currents, torch.tensor([0, 1, 0, 1]))
    return Simulator(
        graph, inputs.double(), steps, scoring=scoring, calibration=calibration, targets=targets
    )


def walked(simulator: Simulator, plans: list[Plan]) -> list[Walk]:
    """All plans side by side, from one common start."""
    groups = simulator.graph.groups
    kept = [kept_by_space(plan, groups) for plan in plans]
    walks = [simulator.start()] * len(plans)
    for group in groups:
        every = torch.arange(group.channels)
        walks = simulator.advance_side_by_side(walks, [k.get(group.space, every) for k in kept])
    return walks


def assert_equal(walk: Walk, single: Walk) -> None:
    assert walk.layers == single.layers
    assert walk.neurons == single.neurons
    assert walk.widths == single.widths
    assert walk.parameters == single.parameters
    torch.testing.assert_close(walk.readout, single.readout)
    assert walk.updates.keys() == single.updates.keys()
    for name, tensors in single.updates.items():
        torch.testing.assert_close(dict(walk.updates[name]), dict(tensors))


@pytest.mark.parametrize("scoring", ["plain", "recalibrated", "refit"])
@pytest.mark.parametrize("make", TRACED)
def test_every_plan_is_as_if_alone(make: Made, scoring: Scoring) -> None:
    graph, inputs, steps = make()
    alone = simulator(graph, inputs, steps, scoring)
    plans = [random_plan(graph, seed) for seed in range(PLANS)]
    together = walked(alone, plans)
    for plan, walk in zip(plans, together, strict=True):
        assert walk.synops > 0
        assert_equal(walk, alone.run(plan))


def test_equal_and_unpruned_plans() -> None:
    graph, inputs, steps = TRACED[0]()
    alone = simulator(graph, inputs, steps, "recalibrated")
    plan, whole = random_plan(graph, 0), random_plan(graph, 0, (0.0, 0.0))
    for each, walk in zip([plan, whole, plan], walked(alone, [plan, whole, plan]), strict=True):
        assert_equal(walk, alone.run(each))


@pytest.mark.parametrize(
    "options",
    [
        {"reset_mechanism": "zero"},
        {"reset_delay": False},
        {"graded_spikes_factor": 0.5},
        {"threshold": -0.1},
    ],
)
def test_neurons_with_parameters_of_their_own(options: dict[str, Any]) -> None:
    def make(channels: int, dims: int) -> snn.Leaky:
        shape = (channels, *(1,) * dims)
        given = {"threshold": 0.1 + 0.3 * torch.rand(shape)} | options
        return snn.Leaky(beta=0.4 + 0.5 * torch.rand(shape), init_hidden=True, **given)

    graph = trace(enlivened(OptionNet(make)), torch.rand(4, 1, 8, 8))
    alone = simulator(graph, torch.rand(9, 1, 8, 8), 4, "recalibrated")
    plans = [random_plan(graph, seed) for seed in range(PLANS)]
    # One channel each, not the same one, and ahead of the others.
    plans = [single_channel(plans[0], 1), single_channel(plans[0], 2), *plans]
    for plan, walk in zip(plans, walked(alone, plans), strict=True):
        assert_equal(walk, alone.run(plan))


def single_channel(plan: Plan, channel: int) -> Plan:
    return replace(plan, kept=((channel,), *plan.kept[1:]))


def test_statistics_name_the_way() -> None:
    graph, inputs, steps = TRACED[1]()
    alone = simulator(graph, inputs, steps, "plain")
    walked(alone, [random_plan(graph, seed) for seed in range(PLANS)])
    assert alone.statistics["neuron update: compiled by Numba, side by side"] > 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 12, 3, stride=2, groups=6, bias=False),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Conv1d(6, 4, 3, dilation=2),
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
    ],
)
def test_products(layer: nn.Module) -> None:
    """Layers of plans that read and give 6, 3 and 1 channels, where they may be cut."""
    layer.double().requires_grad_(False)
    conv = not isinstance(layer, nn.Linear)
    spatial = (9,) * (layer.weight.dim() - 2)
    kind = Kind.CONV if conv else Kind.LINEAR
    node = Node(1, kind, "layer", (0,), "layer", None, (), (), static=False, analog=False)
    groups = layer.groups if conv else 1
    whole = groups not in (1, 6)
    tensors, sources = [], []
    torch.manual_seed(0)
    for read in (6, 6, 6) if whole else (1, 3, 6):
        outputs = len(layer.weight) // 6 * read if groups == 6 else len(layer.weight)
        weight = layer.weight[:outputs] if groups > 1 else layer.weight[:, :read]
        bias = {} if layer.bias is None else {"bias": layer.bias[:outputs]}
        tensors.append({"weight": weight, **bias})
        sources.append(torch.rand(2, 3, read, *spatial, dtype=torch.float64))
    stacked = {name: beside([each[name] for each in tensors], 0) for name in tensors[0]}
    out = connect_side_by_side(node, layer, stacked, beside(sources, 2))
    width = max(len(each["weight"]) for each in tensors)
    for plan, (each, source) in enumerate(zip(tensors, sources, strict=True)):
        expected = connect(node, layer, each, source)
        got = out[:, :, plan * width : plan * width + len(each["weight"])]
        torch.testing.assert_close(got, expected)
        if source.shape[2] == 6:
            torch.testing.assert_close(expected.flatten(0, 1), layer(source.flatten(0, 1)))


@pytest.mark.parametrize("layer", [nn.Linear(40, 5), nn.Linear(40, 5, bias=False)])
def test_linear_layers_in_bfloat16_are_rounded_once(layer: nn.Module) -> None:
    node = Node(1, Kind.LINEAR, "fc", (0,), "fc", None, (), (), static=False, analog=False)
    tensors = {name: t.detach().bfloat16() for name, t in layer.named_parameters()}
    sources = [(torch.rand(4, 30, 40) > 0.5).bfloat16() for _ in range(2)]
    stacked = {name: beside([tensor] * 2, 0) for name, tensor in tensors.items()}
    out = connect_side_by_side(node, layer, stacked, beside(sources, 2)).unflatten(2, (2, 5))
    for plan, source in enumerate(sources):
        exact = nn.functional.linear(source.double(), *(t.double() for t in tensors.values()))
        torch.testing.assert_close(out[:, :, plan], exact.bfloat16(), rtol=2**-8, atol=1e-6)


def test_beside_by_hand() -> None:
    joined = beside([torch.ones(2, 1), torch.full((1, 3), 2.0)], 1)
    assert joined.tolist() == [[[1, 0, 0], [2, 2, 2]], [[1, 0, 0], [0, 0, 0]]]
