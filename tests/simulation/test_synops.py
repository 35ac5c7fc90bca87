"""SynOps, to the last unit: against a spike-by-spike count, and against counts made by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import pytest
import snntorch as snn
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from neuron_kinds import DecayedInput
from reference import frames_of, in_float64, random_plan, run_plain, slow_count
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import reset_neurons, trace

# ------------------------------------------------------------------ random networks


class RandomNet(nn.Module):
    """One time step of a network put together from drawn pieces.

    Attributes:
        program: (how to join with what went before, names of the modules in between).
        analog: connection layers that some path from a non-event input reaches past all neurons.
    """

    def __init__(self) -> None:
        super().__init__()
        self.program: list[tuple[str, list[str]]] = []
        self.analog: set[str] = set()

    def piece(self, join: str, *modules: nn.Module) -> None:
        names = [f"layer{len(self._modules) + i}" for i in range(len(modules))]
        for name, module in zip(names, modules, strict=True):
            self.add_module(name, module)
        self.program.append((join, names))

    def forward(self, x: Tensor) -> Tensor:
        for join, names in self.program:
            y = x
            for name in names:
                y = getattr(self, name)(y)
            x = {"next": lambda x, y: y, "add": torch.add, "concat": _concat}[join](x, y)
        return x

    def mark_analog(self, analog: bool) -> None:
        """Marks the layers that see the network's input, which is analog or not."""
        for join, names in self.program:
            inside = analog
            for name in names:
                module = self.get_submodule(name)
                if inside and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                    self.analog.add(name)
                inside = inside and not isinstance(module, snn.SpikingNeuron)
            analog = inside if join == "next" else inside or analog


def _concat(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y], dim=1)


class Case(NamedTuple):
    """A network, samples ``(batch, [time,] channel, ...)``, and how to run them."""

    model: RandomNet
    inputs: Tensor
    num_steps: int
    varying: bool
    events: bool
    plan_seed: int


def _neuron(draw: Any) -> snn.SpikingNeuron:
    reset = draw(st.sampled_from(["subtract", "zero", "none"]))
    options: dict[str, Any] = {"reset_mechanism": reset, "threshold": 0.2, "init_hidden": True}
    kinds: list[Callable[..., snn.SpikingNeuron]] = [
        partial(snn.Leaky, 0.5),
        partial(snn.Synaptic, 0.5, 0.6),
        partial(snn.Alpha, 0.8, 0.5),
        partial(snn.Lapicque, 0.6),
        partial(DecayedInput, 0.3),  # steps itself
    ]
    return draw(st.sampled_from(kinds))(**options)


def _groups(draw: Any, inputs: int, outputs: int) -> int:
    fitting = [g for g in (1, 2, 3, 4) if inputs % g == 0 and outputs % g == 0]
    return draw(st.sampled_from(fitting))


def _keeping_conv(draw: Any, dims: int, inputs: int, outputs: int) -> nn.Module:
    """A convolution that keeps the spatial size, as joins need it."""
    dilation = draw(st.integers(1, 2))
    kernel = draw(st.sampled_from([1, 2, 3]))
    padding: Any = "same"
    if kernel % 2 and draw(st.booleans()):
        padding = dilation * (kernel - 1) // 2
    conv = nn.Conv1d if dims == 1 else nn.Conv2d
    groups = _groups(draw, inputs, outputs)
    return conv(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups)


def _free_conv(draw: Any, size: tuple[int, ...], inputs: int, outputs: int) -> nn.Module:
    """A convolution with an own kernel, stride, padding and dilation along each axis."""
    options = [
        (kernel, stride, padding, dilation)
        for kernel, stride, padding, dilation in product((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2))
        if dilation * (kernel - 1) < min(size) + 2 * padding
    ]
    axes = [draw(st.sampled_from(options)) for _ in size]
    kernel, stride, padding, dilation = (tuple(axis[i] for axis in axes) for i in range(4))
    conv = nn.Conv1d if len(size) == 1 else nn.Conv2d
    groups = _groups(draw, inputs, outputs)
    return conv(inputs, outputs, kernel, stride, padding, dilation, groups, draw(st.booleans()))


def _pool(draw: Any, dims: int) -> nn.Module:
    kinds = [nn.AvgPool1d, nn.MaxPool1d] if dims == 1 else [nn.AvgPool2d, nn.MaxPool2d]
    stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
    return draw(st.sampled_from(kinds))(2, stride, padding)


def _block(draw: Any, net: RandomNet, shape: tuple[int, ...]) -> None:
    channels, *size = shape
    dims = len(size)
    join = draw(st.sampled_from(["next", "next", "add", "concat"]))
    width = channels if join == "add" else draw(st.sampled_from([2, 3, 4, channels]))
    conv = (
        _free_conv(draw, tuple(size), channels, width)
        if join == "next"
        else _keeping_conv(draw, dims, channels, width)
    )
    norm = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
    norms = [norm(width)] if draw(st.booleans()) else []
    net.piece(join, conv, *norms, _neuron(draw))


def _shape(net: RandomNet, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        out = tuple(net.eval()(torch.zeros(2, *shape)).shape[1:])
    reset_neurons(net)
    return out


@st.composite
def cases(draw: Any) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    dims = draw(st.integers(1, 2))
    shape = (draw(st.integers(1, 3)), *(draw(st.integers(3, 6)) for _ in range(dims)))
    net = RandomNet()
    for _ in range(draw(st.integers(1, 3))):
        _block(draw, net, _shape(net, shape))
        if min(_shape(net, shape)[1:]) > 1 and draw(st.booleans()):
            net.piece("next", _pool(draw, dims))
    net.piece("next", nn.Flatten())
    if draw(st.booleans()):
        net.piece("next", nn.Linear(prod(_shape(net, shape)), 5), _neuron(draw))
    net.piece("next", nn.Linear(prod(_shape(net, shape)), 3))
    if draw(st.booleans()):
        net.piece("next", _neuron(draw))
    for parameter in net.parameters():
        parameter.data.mul_(2)
    num_steps = draw(st.integers(1, 3))
    varying, events = draw(st.booleans()), draw(st.booleans())
    net.mark_analog(not events)
    lead = (3, num_steps) if varying else (3,)
    inputs = torch.rand(*lead, *shape) * (torch.rand(*lead, *shape) < 0.6)
    if events:
        inputs = (inputs > 0).float()
    return Case(net.eval(), inputs, num_steps, varying, events, draw(st.integers(0, 99)))


def trace_case(case: Case) -> SpikingGraph:
    shown = case.inputs.transpose(0, 1) if case.varying else case.inputs
    graph = trace(case.model, shown, varying=case.varying, events=case.events)
    graph.model.double()
    return graph


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.slow
@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_equals_spike_by_spike_count(case: Case) -> None:
    graph = trace_case(case)
    plan = random_plan(graph, case.plan_seed) if graph.groups else Plan((), (), ())
    inputs = case.inputs.double()
    measured = Simulator(graph, inputs, case.num_steps).run(plan).layers

    pruned = in_float64(prune_network(graph, plan))
    plain = run_plain(pruned, frames_of(inputs, case.num_steps, case.varying))
    assert set(measured) == set(plain.inputs)
    for name, seen in plain.inputs.items():
        analog = name in case.model.analog
        count = slow_count(pruned.get_submodule(name), plain.shapes[name], seen, every=analog)
        assert measured[name].synops == (0 if analog else count)
        assert measured[name].macs == (count if analog else 0)
        assert measured[name].active == int((seen != 0).sum())
        assert measured[name].inputs == seen.numel()
    event("some spikes" if any(m.synops for m in measured.values()) else "silent")
    event(f"{len(graph.groups)} groups")


# ------------------------------------------------------------------ counts made by hand


def counted(model: nn.Module, inputs: Tensor, num_steps: int, **options: Any) -> Any:
    """Layer counts of the unpruned network."""
    varying = options.get("varying", False)
    graph = trace(model, inputs.transpose(0, 1) if varying else inputs, **options)
    return Simulator(graph, inputs, num_steps).run().layers


def spiking_head(features: int) -> list[nn.Module]:
    return [snn.Leaky(0.5, init_hidden=True), nn.Flatten(), nn.Linear(features, 3)]


def test_by_hand_conv1d_over_time() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), *spiking_head(6))
    events = torch.zeros(2, 2, 1, 5)  # (sample, time, channel, position)
    events[0, 0, 0, [0, 2]] = 1
    events[0, 1, 0, 4] = 1
    events[1, 1, 0, 1] = 1
    # Kernel 3 on 5 positions has outputs 0, 1, 2; position p is read by outputs p-2..p that exist:
    # 1, 2, 3, 2, 1 taps, and each tap leads to 2 output channels.
    # sample 0: position 0 -> 2, position 2 -> 6, position 4 -> 2; sample 1: position 1 -> 4.
    layers = counted(model, events, 2, varying=True, events=True)
    assert layers["0"].synops == 2 + 6 + 2 + 4
    assert layers["0"].active == 4
    assert layers["0"].input_rate == 4 / 20


def test_by_hand_conv2d_stride_and_padding() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), *spiking_head(12))
    events = torch.zeros(2, 1, 4, 4)
    events[0, 0, 0, 0] = 1
    events[0, 0, 1, 1] = 1
    events[1, 0, 1, 3] = 1
    # Along an axis, output 0 reads -1, 0, 1 and output 1 reads 1, 2, 3: taps 1, 2, 1, 1.
    # (0, 0): 1*1; (1, 1): 2*2; (1, 3): 2*1; times 3 output channels; shown at 5 time steps.
    layers = counted(model, events, 5, events=True)
    assert layers["0"].synops == 5 * 3 * (1 + 4 + 2)


def test_by_hand_grouped_and_depthwise() -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 6, 1, groups=2), nn.Conv1d(6, 6, 2, groups=6), *spiking_head(6)
    )
    nn.init.constant_(model[0].weight, 1.0)
    nn.init.zeros_(model[0].bias)
    events = torch.zeros(2, 4, 2)
    events[0, 0, 0] = 1
    events[0, 3, 1] = 1
    # Kernel 1 in 2 groups: a spike reaches the 3 outputs of its group. Then channels 0-2 are 1 at
    # position 0, and 3-5 at position 1: six events, each with one tap (kernel 2, one output).
    layers = counted(model, events, 1, events=True)
    assert layers["0"].synops == 2 * 3
    assert layers["1"].synops == 6 * 1


def test_by_hand_average_pooling_keeps_fractions() -> None:
    model = nn.Sequential(nn.AvgPool1d(2), nn.Conv1d(1, 2, 1), *spiking_head(4))
    events = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 0.0, 1.0]]])
    # Pooled: (0.5, 0) and (1, 0.5): three non-zero inputs, each with 2 synapses.
    assert counted(model, events, 1, events=True)["1"].synops == 3 * 2


def test_by_hand_pruned_linear_after_flatten() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), *spiking_head(6))
    model[0].weight.data[:, 0, 0] = torch.tensor([2.0, 3.0])
    inputs = torch.ones(2, 1, 3)
    graph = trace(model, inputs)
    # Currents 2 and 3 pass the threshold 1 at every step: 2 channels x 3 positions fire at each of
    # 2 steps, for 2 samples, and each spike reaches 3 classes.
    assert Simulator(graph, inputs, 2).run().layers["3"].synops == 6 * 2 * 2 * 3
    # Keeping channel 1 alone: 3 spikes a step, still 3 classes each.
    kept = Simulator(graph, inputs, 2).run(Plan(("0",), (2,), ((1,),)))
    assert kept.layers["3"].synops == 3 * 2 * 2 * 3
    assert kept.synops == 3 * 2 * 2 * 3
    # 2 weights of the convolution less one; 3 x 6 classifier weights less 3 x 3; 3 biases.
    assert kept.parameters == 1 + 9 + 3


def test_by_hand_zero_valued_weights_count() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1), *spiking_head(4))
    nn.init.zeros_(model[0].weight)
    assert counted(model, torch.ones(2, 1, 2), 1, events=True)["0"].synops == 2 * 2 * 2


def test_by_hand_analog_layer_counts_macs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), *spiking_head(3 * 4))
    inputs = torch.zeros(2, 1, 2, 2)
    # Each of 2x2 inputs is read by all 2x2 outputs of 3 channels, zero or not: 4*4*3 = 48 MACs a
    # sample and step; 2 samples, 7 steps; a static image needs them once.
    count = counted(model, inputs, 7)["0"]
    assert (count.synops, count.macs, count.macs_once) == (0, 48 * 2 * 7, 48 * 2)
    assert count.active == 0
    # Frames differ from step to step, so nothing is saved.
    frames = torch.zeros(2, 7, 1, 2, 2)
    count = counted(model, frames, 7, varying=True)["0"]
    assert (count.macs, count.macs_once) == (48 * 2 * 7, 48 * 2 * 7)


class JoinNet(nn.Module):
    """Spikes of two thresholds, added and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.low = snn.Leaky(0.0, threshold=1.0, init_hidden=True)
        self.high = snn.Leaky(0.0, threshold=5.0, init_hidden=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.low(x), self.high(x)
        return self.fc(torch.cat([low + high, high], dim=1))


def test_by_hand_residual_and_concat() -> None:
    # Sample 0: low fires for feature 0; the sum is (1, 0), high (0, 0): 1 event. Sample 1: low and
    # high fire for feature 0, low alone for feature 1; the sum is (2, 1), high (1, 0): 3 events (a
    # sum of two spikes is one event). 3 classes each.
    inputs = torch.tensor([[2.0, 0.0], [9.0, 2.0]])
    assert counted(JoinNet(), inputs, 1)["fc"].synops == (1 + 3) * 3
