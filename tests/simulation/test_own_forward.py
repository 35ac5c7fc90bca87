"""Networks whose forward does what the simulation does not are refused, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import TRACED, LoopNet, Made, OptionNet, enlivened
from neuron_kinds import KINDS, ExplicitNet, hidden
from reference import reset_own
from snntorch import surrogate
from torch import Tensor, nn

from spear_gym.simulation.own_forward import check_simulation
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.workload import Workload

STEPS = 8


@pytest.mark.parametrize("make", TRACED)
def test_networks_that_are_simulated_right(make: Made) -> None:
    graph, inputs, steps = make()
    check_simulation(graph, inputs[:4], steps)


@pytest.mark.parametrize("kind", ["Synaptic, zero", "Alpha, subtract", "adaptive", "patched fire"])
def test_neurons_that_are_simulated_right(kind: str) -> None:
    for net in (OptionNet(hidden(KINDS[kind])), ExplicitNet(KINDS[kind], STEPS)):
        check_simulation(trace(net, torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8), STEPS)


def leaky() -> snn.Leaky:
    return snn.Leaky(0.8, threshold=0.4, init_hidden=True)


def deep(way: Callable[..., Any]) -> LoopNet:
    """Five layers, so that nothing is seen of the first in the output's first steps."""
    layers: dict[str, nn.Module] = {}
    for index in range(3, 6):
        layers[f"conv{index}"] = nn.Conv2d(6, 6, 3, padding=1)
        layers[f"lif{index}"] = leaky()
    return enlivened(LoopNet(way, **layers))


def through(net: Any, x: Tensor) -> Tensor:
    """From the first layer's spikes to the output's."""
    for index in range(3, 6):
        x = net.get_submodule(f"lif{index}")(net.get_submodule(f"conv{index}")(x))
    return net.lif2(net.fc(net.pool(x).flatten(1)))[0]


# ------------------------------------------------------------------ spikes


def homeostatic(net: Any, x: Tensor) -> Tensor:
    """The first layer's threshold follows its mean rate."""
    if net.lif1.mem.numel() == 0:
        net.level = torch.zeros(())
    net.lif1.threshold = 0.4 + net.level
    spikes = net.lif1(net.conv(x))
    net.level = (0.9 * net.level + 3 * spikes.mean()).detach()
    return through(net, spikes)


def late(net: Any, x: Tensor) -> Tensor:
    """Its first layer is forgotten after some steps."""
    net.step = 0 if net.lif1.mem.numel() == 0 else net.step + 1
    if net.step >= 4:
        net.lif1.threshold = torch.tensor(1e3)
    return through(net, net.lif1(net.conv(x)))


@pytest.mark.parametrize("way", [homeostatic, late])
def test_state_outside_the_neurons_is_found(way: Callable[..., Any]) -> None:
    graph = trace(deep(way), torch.rand(4, 1, 8, 8))
    with pytest.raises(TraceError, match=r"'lif1' fires otherwise .* spikes over 8 time"):
        check_simulation(graph, torch.rand(4, 1, 8, 8), STEPS)


def test_layers_that_are_silent_on_the_samples_are_made_to_fire() -> None:
    def clipped(net: Any, x: Tensor) -> Tensor:
        spikes = net.lif1(net.conv(x))
        net.lif3.threshold = 0.4 + 2 * spikes.mean().detach()
        return through(net, spikes)

    net = deep(clipped)
    faint = 0.02 * torch.rand(4, 1, 8, 8)
    nn.init.zeros_(net.conv.bias)
    graph = trace(net, faint)
    assert not net.lif1(net.conv(faint)).any()
    with pytest.raises(TraceError, match="fires otherwise"):
        check_simulation(graph, faint, STEPS)


def test_a_layer_that_is_called_directly_is_seen() -> None:
    def direct(net: Any, x: Tensor) -> Tensor:
        return through(net, net.lif1.forward(net.conv(x)))

    check_simulation(trace(deep(direct), torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8), STEPS)


# ------------------------------------------------------------------ gradients


def loop(net: Any, x: Tensor, cut_membrane: bool, cut_spikes: bool) -> Tensor:
    reset_own(net)
    mem, recorded = net.lif6.reset_mem(), []
    for _ in range(STEPS):
        spikes, mem = net.lif6(net.conv(x), mem)
        mem = mem.detach() if cut_membrane else mem
        spikes = spikes.detach() if cut_spikes else spikes
        recorded.append(through(net, spikes))
    return torch.stack(recorded)


def looping(cut_membrane: bool = False, cut_spikes: bool = False) -> LoopNet:
    net = deep(lambda net, x: loop(net, x, cut_membrane, cut_spikes))
    net.lif6 = snn.Leaky(0.9, threshold=0.4)
    return net


def without_gradients(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        spikes = net.lif1(net.conv(x))
    return through(net, spikes)


CUT: dict[str, tuple[Callable[[], LoopNet], str]] = {
    "membranes": (lambda: looping(cut_membrane=True), "conv.weight"),
    "spikes": (lambda: looping(cut_spikes=True), "conv.weight"),
    "no_grad": (lambda: deep(without_gradients), "conv.weight"),
}


@pytest.mark.parametrize("what", CUT)
def test_tensors_that_are_cut_off_from_autograd_are_found(what: str) -> None:
    make, name = CUT[what]
    graph = trace(make(), torch.rand(4, 1, 8, 8))
    with pytest.raises(TraceError, match=f"would not train '{name}' as the network's own"):
        check_simulation(graph, torch.rand(4, 1, 8, 8), STEPS)


def test_what_is_frozen_may_be_cut_off() -> None:
    net = deep(without_gradients)
    net.conv.requires_grad_(False)
    check_simulation(trace(net, torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8), STEPS)


def test_random_surrogate_gradients_are_not_compared() -> None:
    net = OptionNet(
        lambda channels, dims: snn.Leaky(
            0.7, threshold=0.3, init_hidden=True, spike_grad=surrogate.SSO()
        )
    )
    check_simulation(trace(enlivened(net), torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8), STEPS)


def test_gradients_of_an_uncut_loop() -> None:
    check_simulation(trace(looping(), torch.rand(4, 1, 8, 8)), torch.rand(4, 1, 8, 8), STEPS)


# ------------------------------------------------------------------ where it is asked for


def test_a_workload_checks_its_network() -> None:
    data = (torch.rand(40, 1, 8, 8), torch.arange(40) % 4)
    with pytest.raises(TraceError, match="fires otherwise"):
        Workload(model=deep(late), train=data, search=data, test=data, num_steps=STEPS)


def test_the_network_is_left_as_it_was(tiny: Workload) -> None:
    graph: SpikingGraph = tiny.graph
    before = {name: value.clone() for name, value in graph.model.state_dict().items()}
    check_simulation(graph, tiny.splits.train.inputs[:4], tiny.num_steps)
    assert all("forward" not in vars(module) for module in graph.model.modules())
    assert all(p.grad is None for p in graph.model.parameters())
    assert all(torch.equal(before[k], v) for k, v in graph.model.state_dict().items())
