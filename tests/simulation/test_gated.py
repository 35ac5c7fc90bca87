"""Gated networks against sliced ones, and the gradient of SynOps against differences."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from networks import TRACED, Made
from reference import random_plan
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan
from spear_gym.simulation.gated import GatedNetwork
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.workload import Workload


def gates_of(graph: SpikingGraph, plan: Plan) -> dict[int, Tensor]:
    gates = {}
    for group, kept in zip(graph.groups, plan.kept, strict=True):
        gates[group.space] = torch.zeros(group.channels)
        gates[group.space][list(kept)] = 1.0
    return gates


@pytest.mark.parametrize("make", TRACED)
def test_closed_gates_are_as_good_as_cut(make: Made) -> None:
    graph, inputs, steps = make()
    network = GatedNetwork(graph, steps)
    whole = Simulator(graph, inputs, steps).run()
    with torch.no_grad():
        outputs, synops = network.forward(inputs, {}, training=False)
    assert whole.synops > 0
    assert float(synops) == pytest.approx(whole.synops / len(inputs), rel=1e-9)
    torch.testing.assert_close(graph.scores(outputs), whole.readout)
    for seed in range(4):
        plan = random_plan(graph, seed)
        walk = Simulator(graph, inputs, steps).run(plan)
        with torch.no_grad():
            outputs, synops = network.forward(inputs, gates_of(graph, plan), training=False)
        assert walk.synops < whole.synops or plan.counts == plan.channels
        assert float(synops) == pytest.approx(walk.synops / len(inputs), rel=1e-9)
        torch.testing.assert_close(graph.scores(outputs), walk.readout)


def test_open_gates_give_the_evaluators_unpruned_synops(tiny: Workload) -> None:
    network = GatedNetwork(tiny.graph, tiny.num_steps)
    gates = {group.space: torch.ones(group.channels) for group in tiny.graph.groups}
    with torch.no_grad():
        _, synops = network.forward(tiny.splits.search.inputs, gates, training=False)
    assert float(synops) == pytest.approx(tiny.reference("search").synops, rel=1e-9)


class TwoLayers(nn.Module):
    """Spikes of the input reach three hidden channels, then two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 3, bias=False)
        self.lif1 = snn.Leaky(beta=0.0, threshold=0.5, reset_mechanism="none", init_hidden=True)
        self.fc2 = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.fc1.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.lif1(self.fc1(x)))


def test_soft_gates_by_hand() -> None:
    """One sample, two frames of events: (1, 1, 0, 1) and (1, 0, 0, 0).

    Layer 1 reads 4 events, each with 3 gated outputs: 4 * (.5 + .25 + 1) = 7. Hidden channel 0
    fires twice, channel 1 once (a membrane without memory), channel 2 never; each spike that is
    read has 2 synapses: 2 * (2 * .5 + 1 * .25) = 2.5.
    """
    frames = torch.tensor([[[1.0, 1, 0, 1], [1, 0, 0, 0]]])
    graph = trace(
        TwoLayers(), frames.transpose(0, 1).expand(2, 2, 4).clone(), varying=True, events=True
    )
    gates = torch.tensor([0.5, 0.25, 1.0], requires_grad=True)
    space = graph.groups[0].space
    _, synops = GatedNetwork(graph, 2).forward(frames, {space: gates}, training=False)
    assert synops.item() == pytest.approx(9.5)
    synops.backward()
    # 4 events into each channel, and 2 synapses for each of its own spikes.
    assert gates.grad is not None
    assert gates.grad.tolist() == pytest.approx([4 + 2 * 2, 4 + 2 * 1, 4])


def test_synops_can_be_counted_at_other_gates(tiny: Workload) -> None:
    """Everything is run, and counted as if each channel were open half of the time."""
    network = GatedNetwork(tiny.graph, tiny.num_steps)
    halves = {group.space: torch.full((group.channels,), 0.5) for group in tiny.graph.groups}
    inputs = tiny.splits.search.inputs
    with torch.no_grad():
        outputs, synops = network.forward(inputs, {}, training=False, counted=halves)
    walk = Simulator(tiny.graph, inputs, tiny.num_steps).run()
    torch.testing.assert_close(tiny.graph.scores(outputs), walk.readout)
    layers = tiny.reference("search").layer_synops
    # The first layer is analog; the classifier's outputs are never pruned.
    expected = 0.25 * (layers["conv2"] + layers["conv3"]) + 0.5 * layers["classifier"]
    assert synops.item() == pytest.approx(expected)


@pytest.mark.parametrize("make", TRACED)
def test_gradient_of_synops_against_differences(make: Made) -> None:
    """Spikes are held: the scale of soft gates changes firing, which the gradient leaves out."""
    graph, inputs, steps = make()
    network = GatedNetwork(graph, steps)
    seen: dict[int, Tensor] = {}
    measure = network._synops

    def held(node, source, gates):
        return measure(node, seen.setdefault(node.index, source), gates)

    network._synops = held
    generator = torch.Generator().manual_seed(1)
    gates = {
        group.space: torch.rand(group.channels, generator=generator, dtype=torch.float64) + 0.1
        for group in graph.groups
    }
    inputs_of = {space: value.clone().requires_grad_(True) for space, value in gates.items()}

    def synops(given: dict[int, Tensor]) -> Tensor:
        floats = {space: value.float() for space, value in given.items()}
        assert all(value.dtype == torch.float32 for value in floats.values())
        return network.forward(inputs, floats, training=False)[1]

    synops(inputs_of).backward()
    step = 2.0**-7
    for space, value in gates.items():
        gradient = inputs_of[space].grad
        assert gradient is not None
        for channel in range(0, len(value), 2):
            moved = []
            for sign in (1, -1):
                shifted = {**gates, space: value.clone()}
                shifted[space][channel] += sign * step
                with torch.no_grad():
                    moved.append(float(synops(shifted)))
            difference = (moved[0] - moved[1]) / (2 * step)
            assert float(gradient[channel]) == pytest.approx(difference, rel=2e-4, abs=2e-4)
            assert difference >= 0
