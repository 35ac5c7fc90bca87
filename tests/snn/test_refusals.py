"""What tracing refuses, each by the name of its place, with the way out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from idioms import (
    STEPS,
    conv,
    images,
    leaky,
    listed,
    one_step,
    stacked,
    sum_over_time,
)
from networks import FramesNet, LoopNet, StepNet
from reference import reset_own
from snntorch import spikegen, surrogate
from torch import Tensor, nn
from torch.nn.utils import prune

from spear_gym.snn.errors import TraceError
from spear_gym.snn.trace import trace
from spear_gym.snn.zoo import digits_net


class Parametric(nn.Module):
    """F.linear with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 96))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def recurrent(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    feedback = torch.zeros(x.size(0), 6, 8, 8)
    spikes = []
    for _ in range(STEPS):
        feedback = net.lif1(net.conv(x) + net.back(feedback))
        spikes.append(net.lif2(net.fc(net.pool(feedback).flatten(1)))[0])
    return torch.stack(spikes)


def recurrent_in_the_neuron(net: LoopNet, x: Tensor) -> Any:
    spk, mem = net.lif3(net.conv(x), torch.zeros(len(x), 6, 8, 8))
    for _ in range(STEPS):
        spk, mem = net.lif3(net.back(spk), mem)
    return spk.flatten(1)


def twice_the_same_layer(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif1(net.conv(x))
    return net.lif2(net.fc(net.pool(net.lif3(net.same(net.same(hidden)))).flatten(1)))


def twice_the_same_neuron(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.fc(net.pool(net.lif1(net.same(net.lif1(net.conv(x))))).flatten(1)))


def if_it_spikes(net: LoopNet, x: Tensor) -> Any:
    spikes = net.lif1(net.conv(x))
    if spikes.sum() > 0:
        spikes = spikes + spikes
    return net.fc(net.pool(spikes).flatten(1))


def if_many_spike(net: LoopNet, x: Tensor) -> Any:
    spikes = net.lif1(net.conv(x))
    if spikes.mean().item() > 0.5:
        spikes = spikes + spikes
    return net.fc(net.pool(spikes).flatten(1))


def membrane_into_layer(net: LoopNet, x: Tensor) -> Any:
    _, mem = net.lif3(net.conv(x))
    return net.fc(net.pool(mem).flatten(1))


def membrane_into_neuron(net: LoopNet, x: Tensor) -> Any:
    _, mem = net.lif3(net.conv(x))
    return net.lif1(mem).flatten(1)


def one_step_only(net: LoopNet, x: Tensor) -> Any:
    return listed(net, x)[1]


def last_of_the_recording(net: LoopNet, x: Tensor) -> Any:
    return stacked(net, x)[0][-1]


def maximum_over_time(net: LoopNet, x: Tensor) -> Any:
    return stacked(net, x)[1].max(0)[0]


def negative_sum(net: LoopNet, x: Tensor) -> Any:
    return sum_over_time(net, x) * -1.0


def noisy(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.current(x + torch.rand_like(x)))


def rate_coded(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.current(torch.bernoulli(x)))


def rate_coded_at_once(net: LoopNet, x: Tensor) -> Any:
    frames = spikegen.rate(x, num_steps=STEPS)
    return torch.stack([net.lif2(net.current(frame))[0] for frame in frames])


def latency_coded(net: LoopNet, x: Tensor) -> Any:
    frames = spikegen.latency(x, num_steps=STEPS)
    return torch.stack([net.lif2(net.current(frame))[0] for frame in frames])


def noisy_layer(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.current(F.dropout(x, 0.5, training=True)))


def not_its_own_state(net: LoopNet, x: Tensor) -> Any:
    spk, mem = net.lif3(net.conv(x), torch.zeros(len(x), 6, 8, 8))
    return net.lif4(net.same(spk), mem)[0].flatten(1)


def different_number_of_steps(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    net.lif1(net.conv(x))
    net.lif1(net.conv(x))
    return net.lif2(net.fc(net.pool(net.conv(x)).flatten(1)))


def no_neuron(net: LoopNet, x: Tensor) -> Any:
    return net.fc(net.pool(net.conv(x)).flatten(1))


def not_a_vector(net: LoopNet, x: Tensor) -> Any:
    return net.lif1(net.conv(x))


def fixed_batch(net: LoopNet, x: Tensor) -> Any:
    total = torch.zeros(4, 4)
    return total + net.current(x)


def no_tensor(net: LoopNet, x: Tensor) -> Any:
    net.current(x)
    return "done"


def pool_over_features(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(F.avg_pool1d(net.current(x), 2))


def needs_two_inputs(net: LoopNet, x: Tensor) -> Any:
    raise TypeError("missing 1 required positional argument: 'y'")


def recording_into_layer(net: LoopNet, x: Tensor) -> Any:
    return net.same2(torch.stack(listed(net, x)).mean(0))


def explicit(**options: Any) -> snn.Leaky:
    return snn.Leaky(beta=0.6, threshold=0.3, **options)


def coin(mem: Tensor) -> Tensor:
    return torch.bernoulli(torch.full_like(mem, 0.5))


def changed_reset() -> snn.Leaky:
    neuron = leaky()
    neuron.reset_mechanism = "zero"
    return neuron


def hooked_backward() -> snn.Leaky:
    neuron = leaky()
    neuron.register_full_backward_hook(lambda _module, grad, _above: grad)
    return neuron


def masked(conv: nn.Conv2d) -> nn.Conv2d:
    prune.l1_unstructured(conv, "weight", amount=0.5)
    return conv


def tied(net: LoopNet) -> LoopNet:
    net.other.weight = net.same.weight
    return net


def two_layers(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif3(net.other(net.lif1(net.same(net.lif4(net.conv(x))))))
    return net.fc(net.pool(hidden).flatten(1))


def sequence(*middle: nn.Module) -> nn.Module:
    """conv - Leaky - flatten - ... - Leaky."""
    return nn.Sequential(nn.Conv2d(1, 6, 3), leaky(), nn.Flatten(), *middle, leaky())


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mixing samples": (
        lambda: sequence(Centred(), nn.Linear(216, 4)),
        r"layer '4' \(Linear\) reads the result of function 'mean' in module '3' \(Centred\), "
        "which does not give one value for every sample",
    ),
    "LSTM": (
        lambda: LoopNet(
            lambda net, x: net.lif2(net.lstm(net.current(x)[:, None])[0][:, 0]),
            lstm=nn.LSTM(4, 4),
        ),
        r"neuron 'lif2' reads",
    ),
    "F.linear with a parameter": (
        lambda: LoopNet(
            lambda net, x: net.lif2(net.own(net.pool(net.lif1(net.conv(x))).flatten(1))),
            own=Parametric(),
        ),
        r"'lif2' reads the result of function 'linear' in module 'own' \(Parametric\)",
    ),
    "transposed convolution": (
        lambda: sequence(nn.Unflatten(1, (6, 6, 6)), nn.ConvTranspose2d(6, 2, 3), nn.Flatten()),
        r"reads the result of function",
    ),
    "recurrent connection": (
        lambda: LoopNet(recurrent, back=conv()),
        r"layer 'back' \(Conv2d\) reads a tensor that does not depend on the input",
    ),
    "recurrent neuron input": (
        lambda: LoopNet(recurrent_in_the_neuron, back=conv(), lif3=explicit()),
        r"neuron 'lif3' is called again with another input.*recurrent connections are not",
    ),
    "shared weights": (
        lambda: LoopNet(twice_the_same_layer, same=conv(), lif3=leaky()),
        r"module 'same' is used more than once in a time step",
    ),
    "tied parameters": (
        lambda: tied(LoopNet(two_layers, same=conv(), other=conv(), lif3=leaky(), lif4=leaky())),
        r"modules 'same' and 'other' share a parameter",
    ),
    "shared neuron": (
        lambda: LoopNet(twice_the_same_neuron, same=conv()),
        r"neuron 'lif1' is called again with another input",
    ),
    "if tensor": (lambda: LoopNet(if_it_spikes), r"decision on the values of a tensor"),
    "if item": (lambda: LoopNet(if_many_spike), r"decision on the values of a tensor"),
    "SLSTM": (
        lambda: sequence(snn.SLSTM(216, 216, init_hidden=True)),
        r"neuron '3' \(SLSTM\) is not supported: it computes gates from its membrane",
    ),
    "SConv2dLSTM": (
        lambda: nn.Sequential(snn.SConv2dLSTM(1, 4, 3, init_hidden=True), nn.Flatten()),
        r"neuron '0' \(SConv2dLSTM\) is not supported: it computes gates from its membrane",
    ),
    "StateLeaky": (
        lambda: sequence(snn.StateLeaky(0.9, channels=216)),
        r"neuron '3' \(StateLeaky\) is not supported: it computes all time steps in one call",
    ),
    "LeakyParallel": (
        lambda: sequence(snn.LeakyParallel(216, 216)),
        r"neuron '3' \(LeakyParallel\) .*all time steps in one call.*decay as a recurrent network",
    ),
    "AssociativeLeaky": (
        lambda: sequence(snn.AssociativeLeaky(216, 4, 4, 16)),
        r"neuron '3' \(AssociativeLeaky\) .*all time steps in one call.*a matrix as its state",
    ),
    "membrane into a layer": (
        lambda: LoopNet(membrane_into_layer, lif3=leaky(output=True)),
        r"layer 'pool' \(MaxPool2d\) reads a membrane potential",
    ),
    "membrane into a neuron": (
        lambda: LoopNet(membrane_into_neuron, lif3=leaky(output=True)),
        r"neuron 'lif1' reads a membrane potential",
    ),
    "membrane of another neuron": (
        lambda: LoopNet(not_its_own_state, same=conv(), lif3=explicit(), lif4=explicit()),
        r"neuron 'lif4' is given a state mem that is not its own",
    ),
    "one step only": (lambda: LoopNet(one_step_only), r"returns only step 1 of 'lif2', of 3"),
    "maximum over time": (lambda: LoopNet(maximum_over_time), r"comes from function 'max'"),
    "negative output": (lambda: LoopNet(negative_sum), r"comes from function 'mul'"),
    "layer on a recording": (
        lambda: LoopNet(recording_into_layer, same2=nn.Linear(4, 4)),
        r"layer 'same2' \(Linear\) reads a recording over time",
    ),
    "different numbers of calls": (
        lambda: LoopNet(different_number_of_steps),
        r"called a different number of times: \{'lif1': 2, 'lif2': 1\}",
    ),
    "circular padding": (
        lambda: LoopNet(one_step, conv=nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular")),
        r"module 'conv' \(Conv2d\) pads with 'circular'; only zero padding",
    ),
    "no running statistics": (
        lambda: sequence(nn.BatchNorm1d(216, track_running_stats=False)),
        r"module '3' \(BatchNorm1d\) keeps no running statistics",
    ),
    "weight computed before every call": (
        lambda: LoopNet(one_step, conv=masked(nn.Conv2d(1, 6, 3, padding=1))),
        r"module 'conv' \(Conv2d\) computes its weight before every call",
    ),
    "parametrization": (
        lambda: LoopNet(
            one_step,
            conv=torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 6, 3, padding=1)),
        ),
        r"module 'conv' \(\w*Conv2d\) has a parametrization",
    ),
    "pool indices": (
        lambda: LoopNet(one_step, pool=nn.MaxPool2d(2, return_indices=True)),
        r"module 'pool' \(MaxPool2d\) returns indices",
    ),
    "inhibition": (lambda: LoopNet(one_step, lif1=leaky(inhibition=True)), r"lateral inhibition"),
    "reset mechanism changed": (
        lambda: LoopNet(one_step, lif1=changed_reset()),
        r"neuron 'lif1' \(Leaky\) has the reset_mechanism 'zero', but what it does is 'subtract'",
    ),
    "backward hook": (
        lambda: LoopNet(one_step, lif1=hooked_backward()),
        r"neuron 'lif1' \(Leaky\) has a backward hook",
    ),
    "random spikes": (
        lambda: LoopNet(one_step, lif1=leaky(spike_grad=coin)),
        r"neuron 'lif1' \(Leaky\) has a spike_grad that does not fire exactly when",
    ),
    "soft spikes": (
        lambda: LoopNet(one_step, lif1=leaky(spike_grad=torch.sigmoid)),
        r"neuron 'lif1' \(Leaky\) has a spike_grad that does not fire exactly when",
    ),
    "no neuron": (lambda: LoopNet(no_neuron), r"no spiking neuron was called"),
    "random input": (lambda: LoopNet(noisy), r"layer 'conv' \(Conv2d\) reads the result of"),
    "rate coding": (lambda: LoopNet(rate_coded), r"result of function 'bernoulli'"),
    "rate coding of all steps": (
        lambda: LoopNet(rate_coded_at_once),
        r"function 'bernoulli', which draws at random; draw before the network is called",
    ),
    "latency coding": (
        lambda: LoopNet(latency_coded),
        r"encodes its input by snntorch.spikegen: .*; encode before the network is called",
    ),
    "TorchScript": (
        lambda: torch.jit.trace(nn.Linear(4, 4), torch.rand(2, 4)),
        r"the network is TorchScript; give the module that it was made from",
    ),
    "compiled": (
        lambda: nn.Sequential(torch.compile(digits_net(0))),
        r"module '0' is compiled; give the module as it was before torch.compile",
    ),
    "dropout that stays on": (lambda: LoopNet(noisy_layer), r"result of function 'dropout'"),
    "output with spatial axes": (lambda: LoopNet(not_a_vector), r"'lif1' has shape \(6, 8, 8\)"),
    "batch size written in": (lambda: LoopNet(fixed_batch), r"treat every batch size alike"),
    "no tensor returned": (lambda: LoopNet(no_tensor), r"forward returns str"),
    "pooling over features": (
        lambda: LoopNet(pool_over_features),
        r"function 'avg_pool1d' reads a tensor of shape \(4, 4\), which torch takes for a single",
    ),
    "two inputs": (lambda: LoopNet(needs_two_inputs), r"must accept one tensor.*any number of"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_place_and_the_way_out(name: str) -> None:
    make, message = REFUSALS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # snnTorch warns of inhibition
        model = make()
    with pytest.raises(TraceError, match=message):
        trace(model, images())


def test_hooks_that_alter_a_layer_are_noticed() -> None:
    net = LoopNet(one_step)
    net.fc.register_forward_pre_hook(lambda _module, args: (args[0] - args[0].mean(),))
    with pytest.raises(TraceError, match="function 'mean', which gives one number for all"):
        trace(net, images())


def test_state_besides_membranes_is_noticed() -> None:
    def growing(net: LoopNet, x: Tensor) -> Any:
        net.conv.bias.data += 0.5
        return net.lif2(net.current(x))

    with pytest.raises(TraceError, match=r"differ in .* of the outputs on a second batch"):
        trace(LoopNet(growing), images())


def test_a_step_that_resets_itself_is_noticed() -> None:
    def forgetful(net: LoopNet, x: Tensor) -> Any:
        reset_own(net)
        return net.lif2(net.current(x))

    net = LoopNet(forgetful, lif1=snn.Leaky(0.9, threshold=1.0, init_hidden=True))
    with pytest.raises(TraceError, match=r"differ in .* of the outputs"):
        trace(net, images())


def test_step_and_loop_errors_are_both_told() -> None:
    net = LoopNet(lambda net, x: net.lif2(net.current(x.flip(0))))
    with pytest.raises(TraceError, match=r"neither as a loop over time.*\(.*\), nor as a single"):
        trace(net, torch.rand(STEPS, 4, 1, 8, 8), varying=True)


def test_bad_examples_and_readouts() -> None:
    with pytest.raises(TraceError, match="at least 2 samples"):
        trace(StepNet(), images(1, 1, 16, 16))
    with pytest.raises(TraceError, match=r"needed, as \(time, batch"):
        trace(FramesNet(), torch.rand(5, 1, 2, 8, 8), varying=True)
    with pytest.raises(TraceError, match="unknown readout 'rates'; did you mean 'rate'"):
        trace(StepNet(), images(4, 1, 16, 16), readout="rates")
    with pytest.raises(TraceError, match="needs an output neuron"):
        trace(digits_net(0), images(), readout="spikes")


SURROGATES = ["atan", "fast_sigmoid", "heaviside", "SFS", "sigmoid", "SSO", "triangular"]


@pytest.mark.parametrize("make", [getattr(surrogate, name) for name in SURROGATES])
def test_deterministic_surrogates_are_accepted(make: Callable[[], Any]) -> None:
    assert trace(LoopNet(one_step, lif1=leaky(spike_grad=make())), images()).groups
