"""Surgery: a really smaller network that does what the sliced simulation did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    FramesNet,
    GroupNet,
    LoopNet,
    OptionNet,
    ResidualNet,
    StepNet,
    TutorialNet,
    enlivened,
)
from reference import SpikeRecorder, in_float64, random_plan, run_plain
from safetensors.torch import load_file, save_file
from snntorch import utils
from torch import Tensor, nn

from spear_gym.pruning.criteria import rank_channels
from spear_gym.pruning.plan import Plan, PlanError, PlanSpace
from spear_gym.pruning.surgery import check_surgery, grafted_network, prune_network, runnable
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import cluttered_digits_net, digits_net

STEPS = 4
SHIPPED: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "digits": (digits_net, 8),
    "cluttered-digits": (cluttered_digits_net, 16),
}


def shipped(name: str, seed: int = 0) -> tuple[SpikingGraph, Tensor]:
    """A shipped network with random weights, and images for it."""
    make, size = SHIPPED[name]
    graph = trace(enlivened(make(seed)), torch.rand(4, 1, size, size))
    return graph, torch.rand(3, 1, size, size)


def minimum_plan(graph: SpikingGraph) -> Plan:
    space = PlanSpace(graph.groups, rank_channels(graph, "l1"))
    return space.plan(space.fewest_counts())


def assert_same_spikes(graph: SpikingGraph, plan: Plan, inputs: Tensor) -> dict[str, Tensor]:
    simulator = SpikeRecorder(graph, inputs, STEPS)
    simulator.run(plan)
    pruned = prune_network(graph, plan)
    if inputs.dtype == torch.float64:
        in_float64(pruned)
    plain = run_plain(pruned, [inputs] * STEPS).spikes
    assert plain.keys() == simulator.spikes.keys()
    for name, spikes in plain.items():
        assert torch.equal(spikes, simulator.spikes[name]), name
    return plain


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_on_random_plans(name: str) -> None:
    graph, inputs = shipped(name)
    graph.model.double()
    for seed in range(12):
        spikes = assert_same_spikes(graph, random_plan(graph, seed), inputs.double())
        assert spikes["lif1"].any()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_in_float32(name: str) -> None:
    graph, inputs = shipped(name)
    differing = total = 0
    for seed in range(6):
        plan = random_plan(graph, seed)
        simulator = SpikeRecorder(graph, inputs, STEPS)
        simulator.run(plan)
        plain = run_plain(prune_network(graph, plan), [inputs] * STEPS).spikes
        for layer, spikes in plain.items():
            differing += int((spikes != simulator.spikes[layer]).sum())
            total += spikes.numel()
    assert differing <= 1e-4 * total


@pytest.mark.parametrize("name", SHIPPED)
def test_minimum_widths(name: str) -> None:
    graph, inputs = shipped(name)
    graph.model.double()
    plan = minimum_plan(graph)
    assert set(plan.counts) == {1}
    assert_same_spikes(graph, plan, inputs.double())
    pruned = prune_network(graph, plan)
    layers = [m for m in pruned.modules() if isinstance(m, nn.Conv2d)]
    assert all(layer.out_channels == len(layer.weight) == 1 for layer in layers)


# network, size of its input, group -> neurons whose spikes come from its channels
SILENCED: dict[str, tuple[Callable[[], nn.Module], int, dict[str, tuple[str, ...]]]] = {
    "step": (StepNet, 16, {"conv1": ("lif1",), "conv2": ("lif2",)}),
    "residual": (
        lambda: ResidualNet(STEPS),
        8,
        {"stem": ("lif0", "lif1"), "conv2": ("lif2",)},
    ),
    "groups": (
        GroupNet,
        8,
        {
            "stem": ("a",),
            "point": ("b", "c"),
            "wide": ("d",),
            "before": ("e",),
            "grouped": ("f",),
            "hidden": ("g",),
        },
    ),
}


def silenced(model: nn.Module, neurons: dict[str, list[int]]) -> nn.Module:
    """The whole network with all but some channels of its neurons kept from spiking."""

    def silence(channels: list[int]) -> Any:
        def hook(_module: nn.Module, _args: Any, spikes: Tensor) -> Tensor:
            heard = torch.zeros_like(spikes)
            heard[:, channels] = spikes[:, channels]
            return heard

        return hook

    for name, channels in neurons.items():
        model.get_submodule(name).register_forward_hook(silence(channels))
    return model


@pytest.mark.parametrize("name", SILENCED)
def test_removing_channels_is_silencing_them(name: str) -> None:
    """An independent view: no sliced weight, the removed channels just never send a spike."""
    make, size, neurons = SILENCED[name]
    graph = trace(enlivened(make(), 3), torch.rand(4, 1, size, size))
    graph.model.double()
    inputs = torch.rand(5, 1, size, size, dtype=torch.float64)
    for seed in range(5):
        plan = random_plan(graph, seed, ratios=(0.1, 0.5))
        kept = {
            neuron: list(channels)
            for group, channels in zip(plan.groups, plan.kept, strict=True)
            for neuron in neurons[group]
        }
        calls = [inputs] if graph.idiom == "loop" else [inputs] * STEPS
        whole = silenced(in_float64(copy.deepcopy(graph.model)), kept)
        expected = run_plain(whole, calls)
        actual = run_plain(in_float64(prune_network(graph, plan)), calls)
        torch.testing.assert_close(actual.outputs, expected.outputs, rtol=1e-10, atol=1e-12)
        for neuron, channels in kept.items():
            heard = expected.spikes[neuron][:, :, channels]
            assert torch.equal(actual.spikes[neuron], heard), neuron
            assert heard.any(), neuron


def test_attributes_follow_the_tensors() -> None:
    graph = trace(StepNet(), torch.rand(4, 1, 16, 16))
    pruned: Any = prune_network(graph, Plan(("conv1", "conv2"), (6, 8), ((1, 4, 5), (0, 7))))
    assert type(pruned) is StepNet
    assert (pruned.conv1.in_channels, pruned.conv1.out_channels) == (1, 3)
    assert (pruned.conv2.in_channels, pruned.conv2.out_channels) == (3, 2)
    assert pruned.conv2.bias is None
    assert (pruned.bn1.num_features, pruned.bn2.num_features) == (3, 2)
    assert (pruned.fc.in_features, pruned.fc.out_features) == (2 * 4, 5)
    assert not any(module.training for module in pruned.modules())
    own: Any = graph.model
    assert torch.equal(pruned.conv2.weight, own.conv2.weight[[0, 7]][:, [1, 4, 5]])
    # Channel 0 and 7 of 8, each 2 x 2 positions behind the flatten.
    assert torch.equal(pruned.fc.weight, own.fc.weight[:, [0, 1, 2, 3, 28, 29, 30, 31]])


def test_the_pruned_network_shares_nothing_and_trains() -> None:
    graph = trace(StepNet(), torch.rand(4, 1, 16, 16))
    graph.model.get_parameter("conv1.bias").requires_grad_(False)
    before = {key: value.clone() for key, value in graph.model.state_dict().items()}
    count = len(snn.SpikingNeuron.instances)
    pruned = prune_network(graph, random_plan(graph, 0))
    assert len(snn.SpikingNeuron.instances) == count
    assert not pruned.get_parameter("conv1.bias").requires_grad
    assert pruned.get_parameter("conv1.weight").requires_grad
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1.0)
    pruned(torch.rand(3, 1, 16, 16))[1].sum().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in graph.model.state_dict().items())


def test_updates_are_installed() -> None:
    graph = trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16))
    plan = random_plan(graph, 0)
    width = len(plan.kept[0])
    mean = torch.arange(float(width))
    pruned: Any = prune_network(graph, plan, {"bn1": {"running_mean": mean}})
    assert torch.equal(pruned.bn1.running_mean, mean)
    assert torch.equal(pruned.state_dict()["bn1.running_mean"], mean)
    own = graph.model.get_buffer("bn1.running_var")
    assert torch.equal(pruned.bn1.running_var, own[list(plan.kept[0])])


def test_a_plan_for_another_network() -> None:
    graph = trace(StepNet(), torch.rand(4, 1, 16, 16))
    with pytest.raises(PlanError, match="the plan is for groups"):
        prune_network(graph, Plan(("conv1",), (6,), ((0,),)))


@pytest.mark.parametrize("name", SHIPPED)
def test_round_trip_through_safetensors(name: str, tmp_path: Path) -> None:
    graph, inputs = shipped(name)
    plan = random_plan(graph, 7)
    pruned = prune_network(graph, plan)
    save_file(pruned.state_dict(), tmp_path / "weights.safetensors")
    # Into a network of other weights, cut by the plan as it is read from its own file.
    other, _ = shipped(name, seed=1)
    again = prune_network(other, Plan.from_json(plan.to_json()))
    before = run_plain(again, [inputs] * STEPS).spikes
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    spikes = run_plain(pruned, [inputs] * STEPS)
    read = run_plain(again, [inputs] * STEPS)
    assert torch.equal(spikes.outputs, read.outputs)
    for layer, fired in spikes.spikes.items():
        assert torch.equal(fired, read.spikes[layer])
    assert not torch.equal(before["lif1"], read.spikes["lif1"])


# ------------------------------------------------------------------ grafted back


def per_channel(channels: int, dimensions: int) -> snn.Leaky:
    """A neuron with decays and thresholds of its own for every channel."""
    shape = (channels, *[1] * dimensions)
    return snn.Leaky(
        torch.rand(shape) * 0.5 + 0.3, threshold=torch.rand(shape) + 0.2, init_hidden=True
    )


@cache
def graph_of(name: str) -> SpikingGraph:
    torch.manual_seed(0)
    make, shape = {
        "step": (StepNet, (4, 1, 16, 16)),
        "tutorial": (TutorialNet, (4, 1, 10, 10)),
        "residual": (lambda: ResidualNet(STEPS), (4, 1, 8, 8)),
        "groups": (GroupNet, (4, 1, 8, 8)),
        "options": (lambda: OptionNet(per_channel), (4, 1, 8, 8)),
        "frames": (FramesNet, (3, 4, 2, 8, 8)),
    }[name]
    return trace(enlivened(make()), torch.rand(shape), varying=name == "frames")


GRAFTED = st.sampled_from(["step", "tutorial", "residual", "groups", "options", "frames"])


def trained_elsewhere(model: nn.Module, seed: int) -> nn.Module:
    """Other weights and statistics in every place; sentinels that no network has."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(100 + torch.rand(value.shape, generator=generator))
        else:
            value.fill_(77)
    return model


@given(GRAFTED, st.integers(0, 1000))
def test_pruning_a_grafted_network_gives_the_pruned_one_again(name: str, seed: int) -> None:
    graph = graph_of(name)
    plan = random_plan(graph, seed)
    before = {key: value.clone() for key, value in graph.model.state_dict().items()}
    pruned = trained_elsewhere(prune_network(graph, plan), seed)
    mine = {key: value.clone() for key, value in pruned.state_dict().items()}
    whole = grafted_network(graph, plan, pruned)
    again = prune_network(graph.rebind(whole), plan).state_dict()
    assert again.keys() == mine.keys() == pruned.state_dict().keys()
    for key, value in mine.items():
        assert torch.equal(again[key], value), key
        assert torch.equal(pruned.state_dict()[key], value), "the pruned network is as it was"
        # All other places have the unpruned network's values, and no sentinel went astray.
        own, grafted = before[key], whole.state_dict()[key]
        assert torch.equal(graph.model.state_dict()[key], own)
        assert (grafted.shape, grafted.dtype) == (own.shape, own.dtype)
        if own.is_floating_point():
            foreign = grafted >= 100
            assert int(foreign.sum()) == value.numel(), key
            assert torch.equal(grafted[~foreign], own[~foreign]), key


@given(GRAFTED, st.integers(0, 1000))
def test_grafting_what_was_not_trained_changes_nothing(name: str, seed: int) -> None:
    graph = graph_of(name)
    plan = random_plan(graph, seed)
    whole = grafted_network(graph, plan, prune_network(graph, plan)).state_dict()
    assert all(torch.equal(whole[key], v) for key, v in graph.model.state_dict().items())


def test_a_grafted_network_shares_nothing_and_keeps_its_memory_layout() -> None:
    graph = trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16))
    graph = graph.rebind(copy.deepcopy(graph.model).to(memory_format=torch.channels_last))
    plan = random_plan(graph, 3)
    pruned = trained_elsewhere(prune_network(graph, plan), 0)
    whole = grafted_network(graph, plan, pruned)
    again = prune_network(graph.rebind(whole), plan).state_dict()
    for key, value in pruned.state_dict().items():
        assert torch.equal(again[key], value), key
    with torch.no_grad():
        for value in whole.state_dict().values():
            value.zero_()
    assert graph.model.get_parameter("conv1.weight").any()
    assert pruned.get_parameter("conv1.weight").any()


def test_grafting_under_a_plan_for_another_network() -> None:
    graph = graph_of("step")
    pruned = prune_network(graph, random_plan(graph, 0))
    with pytest.raises(PlanError, match="the plan is for groups"):
        grafted_network(graph, Plan(("conv1",), (6,), ((0,),)), pruned)


# ------------------------------------------------------------------ sizes written into forward


def test_the_tutorials_view_by_batch_passes() -> None:
    inputs = torch.rand(4, 1, 10, 10)
    check_surgery(trace(TutorialNet(), inputs), inputs)


def fixed_view(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.fc(net.pool(net.lif1(net.conv(x))).view(-1, 96)))


def fixed_view_of_a_batch(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.fc(net.pool(net.lif1(net.conv(x))).view(x.size(0), 96)))


def fixed_width_added(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif1(net.conv(x)) + torch.zeros(1, 6, 8, 8)
    return net.lif2(net.fc(net.pool(hidden).flatten(1)))


@pytest.mark.parametrize("way", [fixed_view, fixed_view_of_a_batch, fixed_width_added])
@pytest.mark.parametrize("batch", [2, 4, 6])
def test_sizes_written_into_forward_are_refused(way: Any, batch: int) -> None:
    inputs = torch.rand(batch, 1, 8, 8)
    graph = trace(LoopNet(way), inputs)
    with pytest.raises(PlanError, match=r"has a size written into it: .*; write x\.flatten"):
        check_surgery(graph, inputs)


def test_the_check_leaves_other_networks_alone() -> None:
    def way(net: LoopNet, x: Tensor) -> Any:
        utils.reset(net)
        return torch.stack([net.lif2(net.current(x))[0] for _ in range(3)])

    bystander = snn.Leaky(0.5, init_hidden=True)
    bystander(torch.ones(2, 2))
    inputs = torch.rand(4, 1, 8, 8)
    check_surgery(trace(LoopNet(way), inputs), inputs)
    assert bystander.mem.tolist() == [[1.0, 1.0], [1.0, 1.0]]


class Grouped(nn.Module):
    """One layer whose width is written into a GroupNorm, and one that is free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.GroupNorm(6, 6)
        self.lif1 = snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True)
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.lif2 = snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True)
        self.fc = nn.Linear(5 * 64, 4)
        self.lif3 = snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif2(self.conv2(self.lif1(self.norm(self.conv1(x)))))
        return self.lif3(self.fc(x.flatten(1)))


def test_a_width_written_into_one_layer_fixes_that_layer() -> None:
    inputs = torch.rand(4, 1, 8, 8)
    graph = trace(Grouped(), inputs)
    assert [group.name for group in graph.groups] == ["conv1", "conv2"]
    found = runnable(graph, inputs)
    assert [group.name for group in found.groups] == ["conv2"]
    (space,) = set(found.fixed) - set(graph.fixed)
    assert "fewer channels of 'conv1'" in found.fixed[space]


def test_a_width_written_into_the_only_layer_is_refused() -> None:
    inputs = torch.rand(4, 1, 8, 8)
    with pytest.raises(PlanError, match="has a size written into it"):
        runnable(trace(LoopNet(fixed_view_of_a_batch), inputs), inputs)
