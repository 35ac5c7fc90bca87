"""The folded, sliced simulation against the user's own module, stepped by snnTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from networks import FramesNet, OptionNet, ResidualNet, StepNet, TutorialNet, enlivened
from reference import (
    SpikeRecorder,
    assert_same_spikes,
    in_float64,
    random_plan,
    reset_own,
    run_plain,
)
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.refit import RIDGE, RefitTargets, ridge
from spear_gym.simulation.simulate import SCORINGS, Scoring, Simulator, accuracy
from spear_gym.simulation.walk import Walk
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net

STEPS = 5

# ------------------------------------------------------------------ every neuron option


def leaky_maker(
    reset: str, delay: bool, per_channel: bool, learned: bool, factor: float, sign: float = 1.0
) -> Callable[[int, int], snn.Leaky]:
    """Makes neurons of one kind for any number of channels and spatial dimensions."""

    def make(channels: int, dims: int) -> snn.Leaky:
        shape = (channels, *(1,) * dims) if per_channel else ()
        return snn.Leaky(
            beta=0.4 + 0.5 * torch.rand(shape),
            threshold=sign * (0.1 + 0.3 * torch.rand(shape)),
            init_hidden=True,
            learn_beta=learned,
            learn_threshold=learned,
            reset_mechanism=reset,
            reset_delay=delay,
            graded_spikes_factor=factor,
            learn_graded_spikes_factor=learned,
        )

    return make


OPTIONS = list(
    product(["subtract", "zero", "none"], [True, False], [False, True], [False, True], [1.0, 0.7])
)


@pytest.mark.parametrize(("reset", "delay", "per_channel", "learned", "factor"), OPTIONS)
def test_spikes_of_every_neuron_option(
    reset: str, delay: bool, per_channel: bool, learned: bool, factor: float
) -> None:
    model = enlivened(OptionNet(leaky_maker(reset, delay, per_channel, learned, factor)), 4)
    graph = trace(model, torch.rand(4, 1, 8, 8))
    inputs = torch.rand(6, 1, 8, 8)
    pruned = random_plan(graph, 3)
    for plan in (None, pruned):
        assert_same_spikes(graph, plan, inputs, tolerance=1e-3)
    graph.model.double()
    assert_same_spikes(graph, pruned, inputs.double())
    spikes = assert_same_spikes(graph, None, inputs.double())
    assert all(0 < (fired != 0).double().mean() < 1 for fired in spikes.values())


@pytest.mark.parametrize(("reset", "delay"), list(product(["subtract", "zero"], [True, False])))
def test_negative_threshold_resets_at_the_first_step(reset: str, delay: bool) -> None:
    model = enlivened(OptionNet(leaky_maker(reset, delay, True, True, 1.0, sign=-1.0)))
    graph = trace(model, torch.rand(4, 1, 8, 8))
    graph.model.double()
    assert_same_spikes(graph, None, torch.rand(6, 1, 8, 8, dtype=torch.float64))


def test_beta_outside_its_range_is_clamped() -> None:
    def make(channels: int, dims: int) -> snn.Leaky:
        return snn.Leaky(
            beta=torch.linspace(-0.5, 1.5, channels).view(-1, *(1,) * dims),
            threshold=0.5,
            init_hidden=True,
            learn_beta=True,
        )

    graph = trace(enlivened(OptionNet(make)), torch.rand(4, 1, 8, 8))
    graph.model.double()
    assert_same_spikes(graph, random_plan(graph, 1), torch.rand(6, 1, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (5, 1, 1), (5, 5, 5), (5,), (5, 1), (1,), (1, 1)])
def test_shapes_of_neuron_parameters(shape: tuple[int, ...]) -> None:
    """Parameters broadcast as in snnTorch: (5,) lies along the width, not along the channels."""
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        snn.Leaky(torch.rand(shape), torch.rand(shape), init_hidden=True),
        nn.Flatten(),
        nn.Linear(125, 3),
    )
    graph = trace(enlivened(net), torch.rand(4, 1, 7, 7))
    graph.model.double()
    inputs = torch.rand(6, 1, 7, 7, dtype=torch.float64)
    assert assert_same_spikes(graph, random_plan(graph, 2, (0.4, 0.7)), inputs)["1"].any()


def test_a_membrane_at_the_threshold_does_not_fire() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), snn.Leaky(0.5, init_hidden=True))
    nn.init.ones_(model[0].weight)
    graph = trace(model, torch.ones(4, 1))
    # Membranes 1.0 (not above 1), 1.5 (fires, minus 1 at the next step), 0.75, 1.375 (fires).
    simulator = SpikeRecorder(graph, torch.ones(2, 1), 4)
    simulator.run()
    assert simulator.spikes["1"][:, 0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    plain = run_plain(model, [torch.ones(2, 1)] * 4)
    assert torch.equal(plain.spikes["1"], simulator.spikes["1"])


# ------------------------------------------------------------------ every idiom's own output


def expected_readout(graph: SpikingGraph, own: Tensor) -> Tensor:
    """The readout, from what the module returned at every step ``(time, batch, classes)``."""
    return own.sum(0) if graph.readout == "spikes" else own.mean(0)


@pytest.mark.parametrize("hoist", [False, True])
@pytest.mark.parametrize("pruned", [False, True])
def test_tutorial_loop(hoist: bool, pruned: bool) -> None:
    net = enlivened(TutorialNet(4, hoist), 4)
    net.lif2.threshold.fill_(0.2)
    graph = trace(net, torch.rand(4, 1, 10, 10))
    plan = random_plan(graph, 5) if pruned else None
    inputs = torch.rand(7, 1, 10, 10)
    model = graph.model if plan is None else prune_network(graph, plan)
    simulator = SpikeRecorder(graph, inputs, 4)
    readout = simulator.run(plan).readout
    plain = run_plain(model, [inputs])
    assert readout is not None
    assert torch.equal(readout, expected_readout(graph, plain.outputs[0]))
    assert plain.spikes["lif2"].any()
    for name, spikes in plain.spikes.items():
        assert torch.equal(spikes, simulator.spikes[name])


@pytest.mark.parametrize("pruned", [False, True])
def test_frames_indexed_by_time(pruned: bool) -> None:
    inputs = (torch.rand(6, 5, 2, 8, 8) < 0.4).float()  # (batch, time, ...)
    shown = inputs.transpose(0, 1)
    graph = trace(enlivened(FramesNet()), shown, varying=True, events=True)
    plan = random_plan(graph, 2) if pruned else None
    model = graph.model if plan is None else prune_network(graph, plan)
    readout = Simulator(graph, inputs, 5).run(plan).readout
    own = run_plain(model, [shown]).outputs[0]
    torch.testing.assert_close(readout, own.mean(0))


@pytest.mark.parametrize("pruned", [False, True])
def test_residual_and_concat(pruned: bool) -> None:
    graph = trace(enlivened(ResidualNet(3)), torch.rand(4, 1, 8, 8))
    plan = random_plan(graph, 8) if pruned else None
    inputs = torch.rand(6, 1, 8, 8)
    model = graph.model if plan is None else prune_network(graph, plan)
    readout = Simulator(graph, inputs, 3).run(plan).readout
    torch.testing.assert_close(readout, run_plain(model, [inputs]).outputs[0])


@pytest.mark.parametrize("wanted", ["current", "spikes", "membrane"])
def test_readouts(wanted: Any) -> None:
    model = enlivened(StepNet())
    graph = trace(model, torch.rand(4, 1, 16, 16), readout=wanted)
    inputs = torch.rand(6, 1, 16, 16)
    reset_own(model)
    current, spikes, membrane = [], [], []
    hook = model.fc.register_forward_hook(lambda _m, _i, out: current.append(out))
    with torch.no_grad():
        for _ in range(STEPS):
            spk, mem = model(inputs)
            spikes.append(spk)
            membrane.append(mem)
    hook.remove()
    expected = {
        "current": torch.stack(current).mean(0),
        "spikes": torch.stack(spikes).sum(0),
        "membrane": torch.stack(membrane).mean(0),
    }
    readout = Simulator(graph, inputs, STEPS).run().readout
    torch.testing.assert_close(readout, expected[wanted])


# ------------------------------------------------------------------ scoring


def make_simulator(graph: SpikingGraph, scoring: Scoring, inputs: Tensor) -> Simulator:
    calibration = torch.rand(9, *inputs.shape[1:], generator=torch.Generator().manual_seed(4))
    calibration = calibration.to(inputs.dtype)
    targets = None
    if scoring == "refit":
        currents = Simulator(graph, calibration, STEPS).classifier_currents()
        classes = graph.nodes[graph.classifier.index].shape[0]
        targets = RefitTargets.from_currents(currents, torch.arange(9) % classes)
    return Simulator(
        graph,
        inputs,
        STEPS,
        scoring=scoring,
        calibration=None if scoring == "plain" else calibration,
        targets=targets,
    )


def assert_same_walk(one: Walk, other: Walk) -> None:
    assert one.readout is not None
    assert other.readout is not None
    assert torch.equal(one.readout, other.readout)
    assert one.layers == other.layers
    assert one.neurons == other.neurons
    assert one.widths == other.widths
    assert one.parameters == other.parameters
    assert one.updates.keys() == other.updates.keys()
    for name, tensors in one.updates.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other.updates[name][key])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "step": (StepNet, 16),
    "residual": (lambda: ResidualNet(STEPS), 8),
    "digits": (lambda: digits_net(3), 8),
}


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_walk_equals_whole_pass(name: str, scoring: Scoring) -> None:
    make, size = NETWORKS[name]
    graph = trace(enlivened(make()), torch.rand(4, 1, size, size))
    inputs = torch.rand(6, 1, size, size)
    simulator = make_simulator(graph, scoring, inputs)
    for seed in range(3):
        plan = random_plan(graph, seed)
        walk = simulator.start()
        for kept in plan.kept:
            assert walk.readout is None
            walk = simulator.advance(walk, torch.tensor(kept))
        assert_same_walk(walk, simulator.run(plan))


def test_walks_share_a_prefix_without_disturbing_each_other() -> None:
    graph = trace(enlivened(digits_net(3)), torch.rand(4, 1, 8, 8))
    simulator = make_simulator(graph, "recalibrated", torch.rand(6, 1, 8, 8))
    one, other = random_plan(graph, 0), random_plan(graph, 1)
    joined = replace(other, kept=(one.kept[0], *other.kept[1:]))
    prefix = simulator.advance(simulator.start(), torch.tensor(one.kept[0]))
    for plan in (one, joined, one):
        walk = prefix
        for kept in plan.kept[1:]:
            walk = simulator.advance(walk, torch.tensor(kept))
        assert_same_walk(walk, simulator.run(plan))


class CrossedNet(nn.Module):
    """Two branches whose layers take turns; one current is read before and behind its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)
        self.lif1 = snn.Leaky(0.5, threshold=0.4, init_hidden=True)
        self.lif2 = snn.Leaky(0.5, threshold=0.4, init_hidden=True)
        self.fc = nn.Linear(8 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.conv1(x), self.conv2(x)
        first, second = self.lif1(self.bn1(one)), self.lif2(self.bn2(other) + other)
        return self.fc(torch.cat([first, second], dim=1).flatten(1))


@pytest.mark.parametrize("scoring", SCORINGS)
def test_currents_are_not_overwritten_while_they_are_needed(scoring: Scoring) -> None:
    """BatchNorm works in place where it may: not on a prefix, not on what others read."""
    graph = trace(enlivened(CrossedNet()), torch.rand(4, 1, 8, 8))
    graph.model.double()
    inputs = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    simulator = make_simulator(graph, scoring, inputs)
    plans = [random_plan(graph, seed) for seed in (0, 1)]
    prefix = simulator.advance(simulator.start(), torch.tensor(plans[0].kept[0]))
    for last in (plans[0].kept[1], plans[1].kept[1]):
        plan = replace(plans[0], kept=(plans[0].kept[0], last))
        walk = simulator.advance(prefix, torch.tensor(last))
        assert_same_walk(walk, simulator.run(plan))
        pruned = in_float64(prune_network(graph, plan, walk.updates))
        own = run_plain(pruned, [inputs] * STEPS).outputs.mean(0)
        torch.testing.assert_close(walk.readout, own, rtol=1e-9, atol=1e-9)


def recalibrated_by_hand(model: nn.Module, calibration: Tensor) -> None:
    """Runs a chain of layers with BatchNorm in train mode over all samples and steps at once.

    Layer by layer: every BatchNorm sees the whole calibration set as one batch, normalises by it,
    and keeps its mean and biased variance.
    """
    reset_own(model)
    frames = [calibration] * STEPS
    for layer in model.children():
        if isinstance(layer, nn.BatchNorm2d):
            pooled = torch.cat(frames)
            twin = copy.deepcopy(layer).train()
            normalised = twin(pooled)
            mean = pooled.mean((0, 2, 3))
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(((pooled - mean.view(-1, 1, 1)) ** 2).mean((0, 2, 3)))
            frames = list(normalised.chunk(STEPS))
        else:
            frames = [layer(frame) for frame in frames]
    reset_own(model)


def test_recalibration_is_one_train_mode_pass() -> None:
    graph = trace(enlivened(digits_net(3)), torch.rand(4, 1, 8, 8))
    graph.model.double()
    inputs = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    calibration = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    simulator = Simulator(graph, inputs, STEPS, scoring="recalibrated", calibration=calibration)
    for seed in range(3):
        plan = random_plan(graph, seed)
        walk = simulator.run(plan)
        by_hand = in_float64(prune_network(graph, plan))
        with torch.no_grad():
            recalibrated_by_hand(by_hand, calibration)
        for name, tensors in walk.updates.items():
            norm = by_hand.get_submodule(name)
            for key in ("running_mean", "running_var"):
                torch.testing.assert_close(tensors[key], getattr(norm, key), rtol=1e-12, atol=1e-13)
        assert len(walk.updates) == 4
        # The network that surgery builds with these statistics is the one that was scored.
        scored = in_float64(prune_network(graph, plan, walk.updates))
        own = run_plain(scored, [inputs] * STEPS).outputs.mean(0)
        torch.testing.assert_close(walk.readout, own, rtol=1e-12, atol=1e-12)
        assert walk.layers == Simulator(graph.rebind(scored), inputs, STEPS).run().layers


def test_recalibration_does_not_depend_on_the_order_of_samples() -> None:
    graph = trace(enlivened(digits_net(3)), torch.rand(4, 1, 8, 8))
    graph.model.double()
    inputs = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    calibration = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    plan = random_plan(graph, 0)
    walks = [
        Simulator(graph, inputs, STEPS, scoring="recalibrated", calibration=c).run(plan)
        for c in (calibration, calibration[torch.randperm(20)])
    ]
    assert walks[0].layers == walks[1].layers
    assert walks[0].neurons == walks[1].neurons
    torch.testing.assert_close(walks[0].readout, walks[1].readout, rtol=1e-12, atol=1e-12)


def test_scored_figures_do_not_count_calibration_samples() -> None:
    graph = trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16))
    inputs = torch.rand(6, 1, 16, 16)
    plain = make_simulator(graph, "plain", inputs).run()
    for scoring in ("recalibrated", "refit"):
        walk = make_simulator(graph, scoring, inputs).run()
        assert walk.readout is not None
        assert walk.readout.shape == (6, 5)
        for name, count in walk.layers.items():
            assert count.inputs == plain.layers[name].inputs
        for name, count in walk.neurons.items():
            assert count.updates == plain.neurons[name].updates


# ------------------------------------------------------------------ refit


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_equals_scikit_learn(intercept: bool) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.random((40, 7)) + 1, rng.integers(0, 3, 40)
    levels = np.where(np.eye(3)[labels] > 0, 2.0, -0.5)
    centred = features - features.mean(0) if intercept else features
    alpha = RIDGE * (centred**2).sum(0).mean() + 1e-9
    expected = Ridge(alpha=alpha, fit_intercept=intercept, solver="cholesky").fit(features, levels)
    weight, bias = ridge(
        torch.from_numpy(features), RefitTargets(torch.from_numpy(levels)), intercept=intercept
    )
    np.testing.assert_allclose(weight.numpy(), expected.coef_, rtol=1e-10)
    np.testing.assert_allclose(bias.numpy(), expected.intercept_ * np.ones(3), rtol=1e-9)


def test_refit_targets_are_the_networks_own_levels() -> None:
    currents = torch.tensor([[3.0, 1.0], [0.0, 5.0]])
    # Labelled: 3 and 5, mean 4; the others: 1 and 0, mean 0.5.
    targets = RefitTargets.from_currents(currents, torch.tensor([0, 1]))
    assert targets.matrix.tolist() == [[4.0, 0.5], [0.5, 4.0]]
    # A network that is wrong everywhere gives no usable levels.
    targets = RefitTargets.from_currents(currents, torch.tensor([1, 0]))
    assert targets.matrix.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_refitted_classifier_is_the_ridge_solution() -> None:
    graph = trace(enlivened(digits_net(3)), torch.rand(4, 1, 8, 8))
    graph.model.double()
    inputs = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    calibration = torch.rand(30, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(30) % 10
    targets = RefitTargets.from_currents(
        Simulator(graph, calibration, STEPS).classifier_currents(), labels
    )
    simulator = Simulator(
        graph, inputs, STEPS, scoring="refit", calibration=calibration, targets=targets
    )
    plan = random_plan(graph, 0)
    walk = simulator.run(plan)
    model = in_float64(prune_network(graph, plan, walk.updates))
    seen = run_plain(model, [calibration] * STEPS)
    features = seen.inputs["classifier"].mean(0).numpy()
    centred = features - features.mean(0)
    alpha = RIDGE * (centred**2).sum(0).mean() + 1e-9
    expected = Ridge(alpha=alpha, solver="cholesky").fit(features, targets.matrix.numpy())
    np.testing.assert_allclose(
        walk.updates["classifier"]["weight"].numpy(), expected.coef_, rtol=1e-6, atol=1e-9
    )
    own = run_plain(model, [inputs] * STEPS).outputs.mean(0)
    torch.testing.assert_close(walk.readout, own, rtol=1e-10, atol=1e-10)


def test_classifier_currents_are_those_of_the_unpruned_network() -> None:
    model = enlivened(StepNet())
    graph = trace(model, torch.rand(4, 1, 16, 16))
    inputs = torch.rand(6, 1, 16, 16)
    currents = []
    hook = model.fc.register_forward_hook(lambda _m, _i, out: currents.append(out))
    run_plain(model, [inputs] * STEPS)
    hook.remove()
    measured = Simulator(graph, inputs, STEPS).classifier_currents()
    torch.testing.assert_close(measured, torch.stack(currents).mean(0))


# ------------------------------------------------------------------ bad input, ties, leaks


def test_ties_go_to_the_lowest_class() -> None:
    readout = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert accuracy(readout, torch.tensor([0, 1, 0])) == 1.0
    assert accuracy(readout, torch.tensor([1, 2, 2])) == 0.0
    assert accuracy(readout, torch.tensor([0, 2, 0])) == 2 / 3


def test_scoring_needs_its_data() -> None:
    graph = trace(StepNet(), torch.rand(4, 1, 16, 16))
    inputs = torch.rand(3, 1, 16, 16)
    with pytest.raises(ValueError, match="needs a calibration set"):
        Simulator(graph, inputs, STEPS, scoring="recalibrated")
    with pytest.raises(ValueError, match="needs regression targets"):
        Simulator(graph, inputs, STEPS, scoring="refit", calibration=inputs)


def test_frames_must_be_as_many_as_time_steps() -> None:
    frames = torch.rand(4, 5, 2, 8, 8)
    graph = trace(FramesNet(), frames.transpose(0, 1), varying=True)
    with pytest.raises(ValueError, match=r"5 frames.*3 time steps"):
        Simulator(graph, frames, 3)


def test_snntorchs_list_of_neurons_does_not_grow() -> None:
    model = digits_net(3)
    graph = trace(model, torch.rand(4, 1, 8, 8))
    inputs = torch.rand(2, 1, 8, 8)
    simulator = Simulator(graph, inputs, 2)
    before = list(snn.SpikingNeuron.instances)
    for seed in range(50):
        plan = random_plan(graph, seed)
        simulator.run(plan)
        run_plain(prune_network(graph, plan), [inputs])
    trace(model, torch.rand(4, 1, 8, 8))
    assert snn.SpikingNeuron.instances == before


def test_simulation_leaves_network_and_inputs_alone() -> None:
    graph = trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16))
    inputs = torch.rand(6, 1, 16, 16)
    weights = {key: value.clone() for key, value in graph.model.state_dict().items()}
    shown = inputs.clone()
    make_simulator(graph, "refit", inputs).run(random_plan(graph, 0))
    assert torch.equal(inputs, shown)
    for key, value in graph.model.state_dict().items():
        assert torch.equal(value, weights[key]), key
