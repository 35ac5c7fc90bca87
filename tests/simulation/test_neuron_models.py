"""Every kind of neuron against snnTorch's own steps: spikes, gradients, SynOps, surgery."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import OptionNet, enlivened
from neuron_kinds import KINDS, MODELS, RECURRENT, ExplicitNet, Make, hidden
from reference import assert_same_spikes, in_float64, random_plan, run_plain, slow_count
from training_steps import STEPS, assert_same_training_step, loop_readout

from spear_gym.pruning.surgery import check_surgery, prune_network
from spear_gym.simulation.differentiable import training_ways
from spear_gym.simulation.membranes import mean_absolute_membranes
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import SpikingGraph, counted_synapses
from spear_gym.snn.leaves import describe
from spear_gym.snn.neurons.general import General
from spear_gym.snn.trace import trace

kinds = pytest.mark.parametrize("kind", KINDS)


def step_graph(kind: str) -> SpikingGraph:
    """A network of one time step, its neurons keep their states."""
    graph = trace(enlivened(OptionNet(hidden(KINDS[kind])), 3), torch.rand(4, 1, 8, 8))
    graph.model.double()
    return graph


def loop_graph(kind: str, **options: Any) -> SpikingGraph:
    """A network that loops over time and hands the states on."""
    net = enlivened(ExplicitNet(KINDS[kind], STEPS), 3)
    graph = trace(net, torch.rand(4, 1, 8, 8), **options)
    graph.model.double()
    return graph


def images(samples: int = 6) -> torch.Tensor:
    return torch.rand(samples, 1, 8, 8, dtype=torch.float64)


@kinds
def test_the_way_is_the_expected_one(kind: str) -> None:
    graph = step_graph(kind)
    general = {isinstance(graph.neuron(node), General) for node in graph.neurons}
    assert general == {kind not in MODELS}


@kinds
def test_spikes(kind: str) -> None:
    graph = step_graph(kind)
    for seed in range(2):
        assert_same_spikes(graph, random_plan(graph, seed), images())
    spikes = assert_same_spikes(graph, None, images())
    assert all(0 < (fired != 0).double().mean() < 1 for fired in spikes.values())


@kinds
def test_spikes_of_a_loop_that_hands_states_on(kind: str) -> None:
    graph = loop_graph(kind)
    assert graph.idiom == "loop"
    assert_same_spikes(graph, random_plan(graph, 1), images(), steps=STEPS)
    spikes = assert_same_spikes(graph, None, images(), steps=STEPS)
    assert all(fired.any() for fired in spikes.values())


@kinds
def test_membranes_that_are_read_out(kind: str) -> None:
    graph = loop_graph(kind, readout="membrane")
    inputs = images()
    plan = random_plan(graph, 2)
    expected = in_float64(prune_network(graph, plan))(inputs)[1].mean(0)
    readout = Simulator(graph, inputs, STEPS).run(plan).readout
    torch.testing.assert_close(readout, expected, rtol=1e-9, atol=1e-9)


@kinds
def test_a_training_step(kind: str) -> None:
    # Alpha's spikes need a step through every layer.
    steps = 6
    reference = partial(loop_readout, steps=steps)
    twin = assert_same_training_step(step_graph(kind), images(), reference, steps=steps)
    moved = {name for name, p in twin.named_parameters() if p.grad is not None and p.grad.any()}
    assert "conv1.weight" in moved
    learned = {name for name, p in twin.named_parameters() if p.requires_grad}
    own = {name for name in learned if name.startswith("lif1.")}
    assert own <= moved, "its own parameters are learned, too"
    graph = step_graph(kind)
    pruned = graph.rebind(prune_network(graph, random_plan(graph, 1)))
    assert_same_training_step(pruned, images(), reference, steps=steps)


@kinds
def test_synops(kind: str) -> None:
    graph = step_graph(kind)
    plan, inputs = random_plan(graph, 3, (0.1, 0.4)), images(3)
    walk = Simulator(graph, inputs, STEPS).run(plan)
    pruned = in_float64(prune_network(graph, plan))
    plain = run_plain(pruned, [inputs] * STEPS)
    for name in ("conv2", "fc1", "fc2"):
        layer = pruned.get_submodule(name)
        count = slow_count(layer, plain.shapes[name], plain.inputs[name], every=False)
        assert walk.layers[name].synops == count > 0
    assert walk.synops == sum(count.synops for count in walk.layers.values())
    assert walk.parameters == sum(p.numel() for p in pruned.parameters())


@pytest.mark.parametrize("kind", RECURRENT)
def test_synops_of_recurrent_synapses(kind: str) -> None:
    graph = step_graph(kind)
    plan, inputs = random_plan(graph, 3, (0.1, 0.4)), images(3)
    walk = Simulator(graph, inputs, STEPS).run(plan)
    pruned = in_float64(prune_network(graph, plan))
    plain = run_plain(pruned, [inputs] * STEPS)
    for name in ("lif1", "lif2", "lif3", "lif4"):
        neuron, arrived = pruned.get_submodule(name), plain.spikes[name][:-1]
        if neuron.all_to_all:
            count = slow_count(neuron.recurrent, tuple(arrived.shape[2:]), arrived, every=False)
        else:
            count = int(torch.count_nonzero(arrived))
        assert walk.layers[f"{name}.recurrent"].synops == count > 0
        assert walk.layers[f"{name}.recurrent"].inputs == plain.spikes[name].numel()
    counted = [each.name for each in counted_synapses(graph)]
    assert counted == list(walk.layers)
    assert walk.widths.keys() == walk.layers.keys()


@kinds
def test_what_is_handed_back_runs(kind: str) -> None:
    net = enlivened(ExplicitNet(KINDS[kind], STEPS), 3)
    graph = trace(net, torch.rand(4, 1, 8, 8))
    check_surgery(graph, torch.rand(2, 1, 8, 8))
    plan = random_plan(graph, 0, (0.5, 0.8))
    pruned = prune_network(graph, plan)
    for samples in (1, 2):
        inputs = torch.rand(samples, 1, 8, 8)
        walk = Simulator(graph, inputs, STEPS).run(plan)
        assert torch.equal(walk.readout, pruned(inputs)[0].sum(0))
    kept = [len(each) for each in plan.kept]
    widths = {size for t in pruned.lif1.state_dict().values() for size in t.shape[:2]}
    assert widths <= {kept[0], 1}
    if kind in RECURRENT and pruned.lif1.all_to_all:
        assert (pruned.lif1.conv2d_channels, pruned.lif2.linear_features) == tuple(kept[:2])
        assert f"{kept[1]}, out_features={kept[1]}" in repr(pruned.lif2)


@pytest.mark.parametrize(
    "kind",
    [
        "Leaky, zero at once",
        "Synaptic, subtract",
        "adaptive",
        "RLeaky, subtract",
        "RLeaky one to one",
    ],
)
def test_walks_side_by_side(kind: str) -> None:
    graph = step_graph(kind)
    simulator = Simulator(graph, images(), 3)
    plans = [random_plan(graph, seed) for seed in range(3)]
    walks = [simulator.start() for _ in plans]
    for group in range(len(graph.groups)):
        kept = [torch.tensor(plan.kept[group]) for plan in plans]
        walks = simulator.advance_side_by_side(walks, kept)
    for plan, walk in zip(plans, walks, strict=True):
        alone = simulator.run(plan)
        assert walk.layers == alone.layers
        assert walk.neurons == alone.neurons


@kinds
def test_every_way_is_named(kind: str) -> None:
    graph = step_graph(kind)
    simulator = Simulator(graph, images(), STEPS)
    simulator.run()
    ways = {*simulator.statistics, *training_ways(graph, images())}
    assert all(way.endswith("compiled by Numba") or ", because " in way for way in ways)
    sums = mean_absolute_membranes(graph, images(), STEPS)
    assert all(bool((each > 0).any()) for each in sums.values())


# ------------------------------------------------------------------ fingerprints


def test_fingerprints_tell_neurons_apart() -> None:
    """Parts of fingerprints, with the parameters, which are told apart by their values, alike."""

    def part(make: Make) -> str:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), hidden(make)(4, 0), torch.nn.Linear(4, 2))
        return str(describe(trace(net, torch.rand(4, 3))))

    # What is frozen is no part of what a network is.
    parts = {kind: part(make) for kind, make in KINDS.items() if kind != "RLeaky, frozen"}
    assert len(set(parts.values())) == len(parts)
    assert parts["adaptive"] == part(KINDS["adaptive"])


def test_leakys_part_of_a_fingerprint_stays() -> None:
    neuron = snn.Leaky(0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), neuron, torch.nn.Linear(4, 2))
    described = describe(trace(net, torch.rand(4, 3)))
    assert described[2] == ["neuron", "1", [1], [4], "", "Leaky(zero, reset_delay=False)"]
