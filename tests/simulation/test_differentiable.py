"""Training folded over time against snnTorch's own loop: readout, gradients, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import OptionNet, ResidualNet, StepNet, enlivened
from reference import frames_of, random_plan, reset_own
from torch import Tensor, nn
from training_steps import (
    STEPS,
    arctan,
    assert_close,
    assert_same_training_step,
    loop_readout,
    loss,
)

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.differentiable import BnTime, forward
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net

BATCH = 6


def leaky_maker(
    reset: str = "subtract",
    delay: bool = True,
    per_channel: bool = False,
    threshold: float = 0.3,
    factor: float = 1.0,
    learned: bool = True,
) -> Callable[[int, int], snn.Leaky]:
    """Neurons whose beta, threshold and spike size are all learned, or all fixed."""

    def make(channels: int, dims: int) -> snn.Leaky:
        shape = (channels, *(1,) * dims) if per_channel else ()
        return snn.Leaky(
            beta=0.5 + 0.3 * torch.rand(shape),
            threshold=threshold * (1 + 0.5 * torch.rand(shape)),
            spike_grad=arctan,
            init_hidden=True,
            learn_beta=learned,
            learn_threshold=learned,
            reset_mechanism=reset,
            reset_delay=delay,
            graded_spikes_factor=factor,
            learn_graded_spikes_factor=learned,
        )

    return make


def inputs_for(varying: bool, *shape: int) -> Tensor:
    lead = (BATCH, STEPS) if varying else (BATCH,)
    values = torch.rand(*lead, *shape, dtype=torch.float64)
    return (values < 0.4).double() if varying else values


def trace_for(model: nn.Module, inputs: Tensor, varying: bool, **options: Any) -> SpikingGraph:
    example = inputs.float()
    return trace(
        enlivened(model),
        example.transpose(0, 1) if varying else example,
        varying=varying,
        events=varying,
        **options,
    )


OPTIONS = list(
    product(
        ["subtract", "zero", "none"], [True, False], [False, True], [False, True], [True, False]
    )
)


@pytest.mark.parametrize(("reset", "delay", "per_channel", "varying", "learned"), OPTIONS)
def test_gradients_of_every_neuron_option(
    reset: str, delay: bool, per_channel: bool, varying: bool, learned: bool
) -> None:
    inputs = inputs_for(varying, 1, 8, 8)
    net = OptionNet(leaky_maker(reset, delay, per_channel, learned=learned))
    twin = assert_same_training_step(trace_for(net, inputs, varying), inputs)
    # The comparison is not one of zeros.
    neurons = ("lif1.beta", "lif1.threshold", "lif4.threshold")
    for name in ("conv1.weight", "bn1.weight", *(neurons if learned else ())):
        gradient = twin.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 1e-6, name


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("reset", "delay"), list(product(["subtract", "zero"], [True, False])))
def test_gradients_with_graded_spikes(reset: str, delay: bool, learned: bool) -> None:
    inputs = inputs_for(False, 1, 8, 8)
    net = OptionNet(leaky_maker(reset, delay, factor=0.7, learned=learned))
    assert_same_training_step(trace_for(net, inputs, False), inputs)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("reset", "delay"), list(product(["subtract", "zero"], [True, False])))
def test_gradients_with_a_negative_threshold(reset: str, delay: bool, learned: bool) -> None:
    inputs = inputs_for(False, 1, 8, 8)
    make = leaky_maker(reset, delay, per_channel=True, threshold=-0.3, learned=learned)
    assert_same_training_step(trace_for(OptionNet(make), inputs, False), inputs)


def test_without_surrogates_only_the_classifier_learns() -> None:
    inputs = inputs_for(False, 1, 8, 8)
    net = OptionNet(lambda *_: snn.Leaky(0.5, 0.2, surrogate_disable=True, init_hidden=True))
    graph = trace_for(net, inputs, False, readout="current")
    forward(graph, inputs.float(), STEPS, training=True).sum().backward()
    gradients = {name: p.grad for name, p in graph.model.named_parameters()}
    classifier = gradients.pop("fc2.weight"), gradients.pop("fc2.bias")
    assert all(g is not None and g.any() for g in classifier)
    assert all(g is None or not g.any() for g in gradients.values())


def test_beta_outside_its_range_gets_no_gradient() -> None:
    inputs = inputs_for(False, 1, 8, 8)
    graph = trace_for(OptionNet(leaky_maker(per_channel=True)), inputs, False)
    with torch.no_grad():
        graph.model.get_parameter("lif1.beta")[:2] = torch.tensor([-0.1, 1.2]).view(2, 1, 1)
    twin = assert_same_training_step(graph, inputs)
    gradient = twin.get_parameter("lif1.beta").grad
    assert gradient is not None
    assert not gradient[:2].any()
    assert gradient[2:].any()


@pytest.mark.parametrize("readout", ["current", "spikes", "membrane"])
def test_readouts(readout: Any) -> None:
    def by_readout(graph: SpikingGraph, model: Any, inputs: Tensor) -> Tensor:
        reset_own(model)
        rows = []
        hook = model.fc.register_forward_hook(lambda _m, _i, out: rows.append([out]))
        for _ in range(STEPS):
            spikes, membrane = model(inputs)
            rows[-1] += [spikes, membrane]
        hook.remove()
        reset_own(model)
        index = ["current", "spikes", "membrane"].index(readout)
        recording = torch.stack([row[index] for row in rows])
        return recording.sum(0) if readout == "spikes" else recording.mean(0)

    inputs = inputs_for(False, 1, 16, 16)
    net = StepNet(spike_grad=arctan)
    net.lif3.spike_grad = arctan
    graph = trace_for(net, inputs, False, readout=readout)
    assert_same_training_step(graph, inputs, by_readout)


def test_a_network_that_loops_itself() -> None:
    inputs = inputs_for(False, 1, 8, 8)
    net = ResidualNet(STEPS)
    net.drop.p = 0.0
    for neuron in (net.lif0, net.lif1, net.lif2):
        neuron.spike_grad = arctan
    graph = trace_for(net, inputs, False)
    assert_same_training_step(graph, inputs, lambda _graph, model, x: model(x))


def test_a_pruned_network() -> None:
    inputs = inputs_for(False, 1, 8, 8)
    graph = trace_for(OptionNet(leaky_maker(per_channel=True)), inputs, False)
    pruned = graph.rebind(prune_network(graph, random_plan(graph, 1)))
    assert_same_training_step(pruned, inputs)


def test_snntorchs_own_surrogate_in_float32() -> None:
    inputs = torch.rand(BATCH, 1, 8, 8)
    graph = trace(enlivened(digits_net(0)), inputs)
    graph.model.train()
    twin = copy.deepcopy(graph.model)
    loss(forward(graph, inputs, STEPS, training=True)).backward()
    loss(loop_readout(graph, twin, inputs)).backward()
    for (name, mine), other in zip(graph.model.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        error = (mine.grad - other.grad).norm() / other.grad.norm()
        assert error < 1e-4, name


# ------------------------------------------------------------------ BatchNorm


def pooled_readout(graph: SpikingGraph, model: nn.Module, inputs: Tensor) -> Tensor:
    """Layer by layer, each BatchNorm on all time steps as one batch.

    A layer that sees the same values at every step is computed once, as direct encoding has it.
    """
    reset_own(model)
    frames = frames_of(inputs, STEPS, graph.varying)
    if not graph.varying:
        frames = frames[:1]
    for layer in model.children():
        if isinstance(layer, snn.Leaky) and len(frames) == 1:
            frames = frames * STEPS
        if isinstance(layer, nn.BatchNorm2d):
            frames = list(layer(torch.cat(frames)).chunk(len(frames)))
        else:
            frames = [layer(frame) for frame in frames]
    reset_own(model)
    return torch.stack(frames).mean(0)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("bn_time", ["step", "pooled"])
def test_batch_norm_over_time(bn_time: BnTime, varying: bool) -> None:
    inputs = inputs_for(varying, 1, 8, 8)
    net = digits_net(0)
    for module in net.modules():
        if isinstance(module, snn.Leaky):
            module.spike_grad = arctan
    graph = trace_for(net, inputs, varying)
    before = {n: b.double() for n, b in graph.model.named_buffers() if "running" in n}
    reference = loop_readout if bn_time == "step" else pooled_readout
    twin = assert_same_training_step(graph, inputs, reference, bn_time)
    moved = [not torch.equal(twin.get_buffer(name), value) for name, value in before.items()]
    assert len(moved) == 8
    assert all(moved)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "linear"])
def test_batch_norm_kinds(kind: str, varying: bool, affine: bool) -> None:
    shape, layer, norm = {
        "conv1d": ((2, 6), nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d),
        "conv2d": ((2, 3, 2), nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d),
        "linear": ((12,), nn.Linear(12, 18), nn.BatchNorm1d),
    }[kind]
    width = 18 if kind == "linear" else 3
    neurons = [leaky_maker(learned=learned)(width, 0) for learned in (False, True)]
    middle = [nn.Flatten(), nn.Linear(18, 18), nn.BatchNorm1d(18, affine=affine), neurons[1]]
    net = nn.Sequential(
        layer, norm(width, momentum=0.3, affine=affine), neurons[0], *middle, nn.Linear(18, 2)
    )
    inputs = inputs_for(varying, *shape)
    assert_same_training_step(trace_for(net, inputs, varying), inputs)


def test_step_and_pooled_differ() -> None:
    inputs = inputs_for(True, 1, 8, 8)
    graph = trace_for(digits_net(0), inputs, True)
    in_train = graph.model.train()
    stepped, pooled = (
        forward(
            graph.rebind(copy.deepcopy(in_train)), inputs.float(), STEPS, training=True, bn_time=b
        )
        for b in ("step", "pooled")
    )
    assert not torch.allclose(stepped, pooled)


def test_cumulative_batch_norm_is_refused() -> None:
    inputs = inputs_for(False, 1, 8, 8).float()
    graph = trace_for(digits_net(0), inputs, False)
    graph.model.get_submodule("bn1").momentum = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="momentum=None"):
        forward(graph, inputs, STEPS, training=True)


# ------------------------------------------------------------------ evaluation mode and dropout


def test_without_training_it_is_the_simulation() -> None:
    inputs = torch.rand(BATCH, 1, 8, 8)
    graph = trace(enlivened(digits_net(0)), inputs)
    before = {key: value.clone() for key, value in graph.model.state_dict().items()}
    readout = forward(graph, inputs, STEPS, training=False)
    torch.testing.assert_close(readout, Simulator(graph, inputs, STEPS).run().readout)
    assert readout.requires_grad
    assert all(torch.equal(before[k], v) for k, v in graph.model.state_dict().items())


def test_gradients_in_evaluation_mode() -> None:
    inputs = inputs_for(False, 1, 16, 16)
    graph = trace_for(StepNet(), inputs, False)
    graph.model.double()
    for name in ("lif1", "lif2", "lif3"):
        graph.model.get_submodule(name).spike_grad = arctan  # type: ignore[assignment]
    twin = copy.deepcopy(graph.model)
    loss(forward(graph, inputs, STEPS, training=False)).backward()
    loss(loop_readout(graph, twin, inputs)).backward()
    for (name, mine), other in zip(graph.model.named_parameters(), twin.parameters(), strict=True):
        if other.requires_grad:
            assert mine.grad is not None
            assert other.grad is not None
            assert_close(mine.grad, other.grad, name)


def test_dropout_drops_in_training_only() -> None:
    inputs = torch.rand(BATCH, 1, 8, 8)
    graph = trace(enlivened(ResidualNet(STEPS)), inputs)
    graph.model.get_submodule("drop").p = 0.9  # type: ignore[assignment]
    still = forward(graph, inputs, STEPS, training=False)
    graph.model.train()
    assert torch.equal(still, forward(graph, inputs, STEPS, training=False))
    trained = copy.deepcopy(graph.model)
    one = forward(graph, inputs, STEPS, training=True)
    other = forward(graph.rebind(trained), inputs, STEPS, training=True)
    assert not torch.allclose(one, other)


def test_one_value_per_channel_is_refused() -> None:
    net = nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        snn.Leaky(0.5, init_hidden=True),
        nn.Linear(4, 2),
    )
    graph = trace(net.eval(), torch.rand(4, 3))
    with pytest.raises(ValueError, match="1 value per channel"):
        forward(graph, torch.rand(1, 3), 2, training=True)
