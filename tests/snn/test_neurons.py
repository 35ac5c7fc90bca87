"""Which way a neuron is simulated is found by what it does; what cannot be simulated is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import snntorch as snn
import torch
from networks import LoopNet, OptionNet, enlivened
from neuron_kinds import Adaptive, DecayedInput, Make, OnlyDefaults, hidden
from reference import assert_same_spikes, random_plan
from snntorch.functional import quant
from torch import Tensor, nn
from training_steps import arctan, assert_same_training_step

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.neurons import MODELS
from spear_gym.snn.neurons.base import RESETS, Model, Neuron, Reset
from spear_gym.snn.neurons.general import General
from spear_gym.snn.neurons.identify import Answer
from spear_gym.snn.neurons.leaky import Leaky
from spear_gym.snn.neurons.recurrent import Recurrent
from spear_gym.snn.trace import trace


def traced(make: Make) -> SpikingGraph:
    return trace(enlivened(OptionNet(hidden(make)), 3), torch.rand(4, 1, 8, 8))


def neurons(graph: SpikingGraph) -> set[Neuron]:
    return {graph.neuron(node) for node in graph.neurons}


def leaky(channels: int, dims: int, **options: Any) -> snn.Leaky:
    return snn.Leaky(0.7, 0.3, spike_grad=arctan, **options)


def assert_as_by_itself(graph: SpikingGraph) -> None:
    """Spikes and gradients are those of the network's own forward, pruned and not."""
    graph.model.double()
    inputs = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    assert_same_spikes(graph, random_plan(graph, 1), inputs)
    assert assert_same_spikes(graph, None, inputs)["lif2"].any()
    assert_same_training_step(graph, inputs)


# ------------------------------------------------------------------ plain


class Helpers(snn.Leaky):
    """New names beside snnTorch's change nothing."""

    rate = 0.5

    def halved(self) -> float:
        return self.rate / 2


@pytest.mark.parametrize(
    "make",
    [
        leaky,
        lambda channels, dims, **options: OnlyDefaults(**options),
        lambda channels, dims, **options: Helpers(0.7, 0.3, **options),
    ],
)
def test_plain_neurons(make: Make) -> None:
    assert neurons(traced(make)) == {Leaky("subtract")}


def test_a_hook_that_watches_leaves_a_neuron_plain() -> None:
    seen: list[Tensor] = []

    def make(channels: int, dims: int, **options: Any) -> snn.Leaky:
        neuron = leaky(channels, dims, **options)
        neuron.register_forward_hook(lambda _module, _args, output: seen.append(output))
        return neuron

    assert neurons(traced(make)) == {Leaky("subtract")}


SETTINGS = [
    (model, reset, delay)
    for model in MODELS
    for reset in RESETS
    for delay in ((True, False) if model.has_delay else (True,))
]


@pytest.mark.parametrize(("model", "reset", "delay"), SETTINGS)
def test_all_settings_of_a_model_are_told_apart(
    model: type[Model], reset: Reset, delay: bool
) -> None:
    options: dict[str, Any] = {"reset_mechanism": reset}
    if model.has_delay:
        options["reset_delay"] = delay
    if issubclass(model, Recurrent):
        options["linear_features"] = 6
    neuron = model.module(**{"alpha": 0.9} if "alpha" in model.own else {}, beta=0.5, **options)
    answer = Answer(neuron, model.of(neuron, reset, delay))
    others = {model.of(neuron, r, d) for m, r, d in SETTINGS if m is model}
    same = {other for other in others if answer.is_done_by(other)}
    # Without a reset it is all the same when it takes place.
    assert same == {
        other
        for other in others
        if other.reset == reset and (reset == "none" or other.delay == delay)
    }


# ------------------------------------------------------------------ options of snnTorch's own


@pytest.mark.parametrize("kind", [snn.Leaky, snn.Synaptic])
@pytest.mark.parametrize("uniform", [True, False])
def test_a_quantised_state_is_never_ignored(kind: Any, uniform: bool) -> None:
    levels = quant.state_quant(num_bits=4, uniform=uniform, threshold=0.3)

    def make(channels: int, dims: int, **options: Any) -> snn.SpikingNeuron:
        decays = {"alpha": 0.6} if kind is snn.Synaptic else {}
        return kind(**decays, beta=0.7, threshold=0.3, state_quant=levels, **options)

    graph = traced(make)
    assert all(isinstance(neuron, General) for neuron in neurons(graph))
    inputs = torch.rand(6, 1, 8, 8)
    assert_same_spikes(graph, random_plan(graph, 1), inputs, tolerance=0.01)
    assert assert_same_spikes(graph, None, inputs, tolerance=0.01)["lif3"].any()


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("model", MODELS)
def test_lateral_inhibition_is_never_ignored(model: type[Model]) -> None:
    options: dict[str, Any] = {"alpha": 0.9} if "alpha" in model.own else {}
    options |= {"all_to_all": False} if issubclass(model, Recurrent) else {}

    def make(channels: int, dims: int, **given: Any) -> snn.SpikingNeuron:
        return model.module(beta=0.7, inhibition=True, **options, **given)

    with pytest.raises(TraceError, match=r"uses lateral inhibition, .* set inhibition=False"):
        traced(make)


class PlainAttribute(snn.Leaky):
    """A value per channel that is neither a parameter nor a buffer."""

    def __init__(self, channels: int, dims: int, **options: Any) -> None:
        super().__init__(0.7, 0.3, spike_grad=arctan, **options)
        self.gain = torch.rand(channels, *(1,) * dims) + 0.5

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        return super().forward(self.gain * input_, mem)


def test_tensors_that_are_plain_attributes_are_cut() -> None:
    graph = traced(PlainAttribute)
    inputs = torch.rand(6, 1, 8, 8)
    plan = random_plan(graph, 1, (0.4, 0.6))
    assert_same_spikes(graph, plan, inputs, tolerance=0.01)
    assert prune_network(graph, plan).lif1.gain.shape == (len(plan.kept[0]), 1, 1)


class Tokens(nn.Module):
    """As many tokens as features, and a neuron with values by feature, the last axis."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        beta, threshold = torch.linspace(0.1, 0.95, 6), torch.linspace(0.05, 0.9, 6)
        options = {"learn_beta": learned, "learn_threshold": learned, "init_hidden": True}
        self.fc1 = nn.Linear(4, 6)
        self.lif1 = snn.Leaky(beta, threshold, **options)
        self.fc2 = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.lif1(self.fc1(x)).flatten(1))


@pytest.mark.parametrize("learned", [True, False])
def test_values_by_feature_of_tokens(learned: bool) -> None:
    graph = trace(enlivened(Tokens(learned)), torch.rand(4, 6, 4))
    check_simulation(graph, torch.rand(5, 6, 4), 5)


# ------------------------------------------------------------------ another snnTorch


def whole_update(neuron: snn.Leaky, input_: Tensor) -> Tensor:
    """Reset to zero of the whole update, as a later snnTorch may have it."""
    charged = neuron._base_state_function(input_)
    return charged - neuron.reset * charged


def decayed_threshold(neuron: snn.Leaky, input_: Tensor) -> Tensor:
    """Subtraction before the decay."""
    beta = neuron.beta.clamp(0, 1)
    return beta * (neuron.mem - neuron.reset * neuron.threshold) + input_


def same_as_before(neuron: snn.Leaky, input_: Tensor) -> Tensor:
    """Today's reset to zero under another name."""
    neuron.mem = (1 - neuron.reset) * neuron.mem
    return neuron._base_state_function(input_)


@pytest.mark.parametrize("formula", [whole_update, decayed_threshold])
@pytest.mark.parametrize("delay", [True, False])
def test_a_reset_that_is_not_known_steps_itself(
    formula: Callable[..., Tensor], delay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snn.Leaky, "_base_zero", formula)

    def make(channels: int, dims: int, **options: Any) -> snn.Leaky:
        return leaky(channels, dims, reset_mechanism="zero", reset_delay=delay, **options)

    graph = traced(make)
    for neuron in neurons(graph):
        assert isinstance(neuron, General)
        assert neuron.reason == "it does not do what Leaky is known to do"
    assert_as_by_itself(graph)


def test_a_reset_that_is_known_is_found_under_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    original = snn.Leaky.__init__

    def renamed(neuron: snn.Leaky, *arguments: Any, **options: Any) -> None:
        original(neuron, *arguments, **options)
        neuron.state_function = MethodType(same_as_before, neuron)

    monkeypatch.setattr(snn.Leaky, "__init__", renamed)

    def make(channels: int, dims: int, **options: Any) -> snn.Leaky:
        return leaky(channels, dims, reset_mechanism="zero", **options)

    graph = traced(make)
    assert neurons(graph) == {Leaky("zero")}
    assert_as_by_itself(graph)


def test_a_gradient_that_is_not_known_steps_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same spikes, but the membrane's past is cut off from the gradient."""

    def truncated(neuron: snn.Leaky, input_: Tensor) -> Tensor:
        return neuron.beta.clamp(0, 1) * neuron.mem.detach() + input_

    monkeypatch.setattr(snn.Leaky, "_base_state_function", truncated)
    graph = traced(leaky)
    assert all(isinstance(neuron, General) for neuron in neurons(graph))
    assert_as_by_itself(graph)


# ------------------------------------------------------------------ what a user changes


def patched_reset(channels: int, dims: int, **options: Any) -> snn.Leaky:
    neuron = leaky(channels, dims, **options)
    neuron.mem_reset = lambda mem: (mem > 0.8).to(mem.dtype)
    return neuron


def patched_state_function(channels: int, dims: int, **options: Any) -> snn.Leaky:
    neuron = leaky(channels, dims, **options)
    neuron.state_function = MethodType(decayed_threshold, neuron)
    return neuron


class Late(snn.Leaky):
    """Fires by a threshold of its own."""

    def fire(self, mem: Tensor) -> Tensor:
        return self.spike_grad(mem - 0.6)


class Own(snn.SpikingNeuron):
    """A neuron of none of snnTorch's models, with its state in a plain attribute."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(threshold=0.4, spike_grad=arctan, **options)
        self.decay = nn.Parameter(0.3 + 0.5 * torch.rand(channels))
        self.mem = None

    def reset_mem(self) -> None:
        self.mem = None

    def forward(self, input_: Tensor) -> Tensor:
        decay = self.decay.view(-1, *(1,) * (input_.dim() - 2))
        mem = input_ if self.mem is None else decay * self.mem + input_
        spikes = self.spike_grad(mem - self.threshold)
        self.mem = mem * (1 - spikes.detach())
        return spikes


CHANGED: dict[str, tuple[Make, str]] = {
    "mem_reset on the instance": (patched_reset, "its mem_reset is replaced"),
    "state_function": (patched_state_function, "it does not do what Leaky is known to do"),
    "fire in a subclass": (
        lambda channels, dims, **options: Late(0.7, 0.3, spike_grad=arctan, **options),
        "Late overrides fire",
    ),
    "a class of its own": (
        lambda channels, dims, **options: Own(channels, **options),
        "Own is not written out",
    ),
    "mixed resets": (
        lambda channels, dims, **options: mixed(channels, dims, **options),
        "it does not do what Leaky is known to do",
    ),
}


def mixed(channels: int, dims: int, **options: Any) -> snn.Leaky:
    """Subtracts at the step and sets to zero at once: another reset_mechanism was set late."""
    neuron = leaky(channels, dims, reset_delay=False, **options)
    neuron.reset_mechanism = "zero"
    return neuron


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_changed_steps_itself(what: str) -> None:
    make, reason = CHANGED[what]
    graph = traced(make)
    for neuron in neurons(graph):
        assert isinstance(neuron, General)
        assert neuron.reason == reason
    assert_as_by_itself(graph)


def test_deltaleaky_fires_at_changes() -> None:
    """snnTorch's own subclass, which starts from states that are None and returns them nested."""
    net = LoopNet(
        lambda net, x: net.lif2(net.fc(net.pool(net.lif1(net.conv(x))[0]).flatten(1))),
        lif1=snn.DeltaLeaky(beta=0.5, delta_threshold=0.1, init_hidden=True),
    )
    graph = trace(enlivened(net), torch.rand(4, 1, 8, 8))
    assert assert_same_spikes(graph, random_plan(graph, 0), torch.rand(6, 1, 8, 8))["lif1"].any()


def test_a_membrane_that_is_no_buffer_makes_the_steps_of_a_loop() -> None:
    def loop(net: Any, x: Tensor) -> Tensor:
        net.lif1.reset_mem(), net.lif2.reset_mem()
        return torch.stack([net.lif2(net.current(x))[0] for _ in range(4)])

    net = LoopNet(loop, lif1=Own(6, init_hidden=True))
    graph = trace(enlivened(net), torch.rand(4, 1, 8, 8))
    assert (graph.idiom, graph.traced_steps) == ("loop", 4)
    inputs = torch.rand(6, 1, 8, 8)
    assert assert_same_spikes(graph, random_plan(graph, 0), inputs, steps=4)["lif1"].any()


def test_an_instances_own_forward_is_left_to_it() -> None:
    class Twofold(snn.Leaky):
        def __init__(self) -> None:
            super().__init__(0.7, 0.3, init_hidden=True)
            self.forward = self.doubled

        def doubled(self, input_: Tensor) -> Tensor:
            return snn.Leaky.forward(self, 2 * input_)

    net = LoopNet(lambda net, x: net.lif2(net.current(x)), lif1=Twofold())
    graph = trace(enlivened(net), torch.rand(4, 1, 8, 8))
    assert graph.model.get_submodule("lif1").forward.__name__ == "doubled"
    assert_same_spikes(graph, random_plan(graph, 0), torch.rand(6, 1, 8, 8))


# ------------------------------------------------------------------ refused


class Forgetful(Adaptive):
    """Its second state stays when it is reset."""

    def reset_mem(self) -> Tensor:
        return snn.Leaky.reset_mem(self)


class Competing(snn.Leaky):
    """Channels take from one another."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return super()._base_state_function(input_ - 0.01 * input_.mean(1, keepdim=True))


class Pooled(snn.Leaky):
    """Samples take from one another."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return super()._base_state_function(input_ - input_.mean(0, keepdim=True))


class Noisy(snn.Leaky):
    def _base_state_function(self, input_: Tensor) -> Tensor:
        return super()._base_state_function(input_ + 0.5 * torch.rand_like(input_))


class Sized(snn.Leaky):
    """Has its width written in."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return super()._base_state_function(input_ * torch.ones(6, 1, 1))


class Broken(snn.Leaky):
    def _base_state_function(self, input_: Tensor) -> Tensor:
        raise ArithmeticError("no such luck")


def refers_outside() -> snn.Leaky:
    neuron = snn.Leaky(0.7, 0.3, init_hidden=True)
    neuron.fire = lambda mem: (mem > 2 * neuron.threshold).to(mem.dtype)
    return neuron


def no_spike_function() -> snn.Leaky:
    return snn.Leaky(0.7, 0.3, init_hidden=True, spike_grad=lambda mem: mem.no_such_thing)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "keeps state": (
        lambda: Forgetful(0.7, 0.3, init_hidden=True, channels=6),
        r"neuron 'lif1' \(Forgetful\) keeps a state that its reset_mem\(\) does not clear",
    ),
    "channels": (lambda: Competing(0.7, 0.3, init_hidden=True), "lets its channels act on one"),
    "samples": (lambda: Pooled(0.7, 0.3, init_hidden=True), "lets the samples of a batch act on"),
    "random": (lambda: Noisy(0.7, 0.3, init_hidden=True), "does not do the same twice"),
    "width": (lambda: Sized(0.7, 0.3, init_hidden=True), "cannot be cut to fewer channels: .*size"),
    "fails": (lambda: Broken(0.7, 0.3, init_hidden=True), "fails .* no such luck"),
    "outside": (refers_outside, "has a function fire set on it that refers to a network"),
    "spike function": (no_spike_function, "has a spike_grad that fails: .*no_such_thing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str) -> None:
    make, message = REFUSED[what]
    net = LoopNet(lambda net, x: net.lif2(net.current(x)), lif1=make())
    with pytest.raises(TraceError, match=message):
        trace(net, torch.rand(4, 1, 8, 8))


def test_the_users_neuron_is_left_as_it_was() -> None:
    net = LoopNet(
        lambda net, x: net.lif2(net.current(x)),
        lif1=Adaptive(0.7, 0.3, init_hidden=True, channels=6),
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.rand(2, 1, 8, 8))
    tired = net.lif1.tired
    trace(net, torch.rand(4, 1, 8, 8))
    assert net.lif1.tired is tired
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# ------------------------------------------------------------------ states handed on


def hands_one_state(net: Any, x: Tensor) -> Any:
    _, mem = net.lif3.reset_mem()
    spikes = []
    for _ in range(3):
        spk, _, mem = net.lif3(net.conv(x), torch.zeros(len(x), 6, 8, 8), mem)
        spikes.append(net.fc(net.pool(spk).flatten(1)))
    return torch.stack(spikes)


def mixes_steps(net: Any, x: Tensor) -> Any:
    syn, mem = net.lif3.reset_mem()
    spikes = []
    for _ in range(3):
        last = syn
        spk, syn, mem = net.lif3(net.conv(x), last, mem)
        syn = last if len(spikes) else syn
        spikes.append(net.fc(net.pool(spk).flatten(1)))
    return torch.stack(spikes)


def returns_a_current(net: Any, x: Tensor) -> Any:
    syn, mem = net.lif3.reset_mem()
    recording = []
    for _ in range(3):
        _, syn, mem = net.lif3(net.fc(net.pool(net.lif1(net.conv(x))).flatten(1)), syn, mem)
        recording.append(syn)
    return torch.stack(recording)


def reads_a_current(net: Any, x: Tensor) -> Any:
    syn, mem = net.lif3.reset_mem()
    _, syn, mem = net.lif3(net.conv(x), syn, mem)
    return net.fc(net.pool(syn).flatten(1))


def gives_a_flag(net: Any, x: Tensor) -> Any:
    return net.fc(net.pool(net.lif4(net.conv(x), loud=True)).flatten(1))


class Flagged(snn.Leaky):
    def forward(self, input_: Tensor, loud: bool = False) -> Tensor:
        return super().forward(2 * input_ if loud else input_)


HANDED: dict[str, tuple[Callable[..., Any], str]] = {
    "only one of two": (hands_one_state, "'lif3' is given a syn that is not its own of the step"),
    "of different steps": (mixes_steps, "'lif3' is given states of different time steps"),
    "returned": (returns_a_current, "returns a neuron's state syn; return its spikes or its"),
    "read by a layer": (reads_a_current, r"'pool' \(MaxPool2d\) reads a neuron's state syn as its"),
    "no state": (gives_a_flag, "'lif4' is called with loud=True, which is no state"),
}


@pytest.mark.parametrize("what", HANDED)
def test_states_that_go_astray(what: str) -> None:
    way, message = HANDED[what]
    net = LoopNet(
        way, lif3=snn.Synaptic(0.8, 0.7, threshold=0.2), lif4=Flagged(0.7, 0.3, init_hidden=True)
    )
    with pytest.raises(TraceError, match=message):
        trace(net, torch.rand(4, 1, 8, 8))


def keeps_it_itself(net: Any, x: Tensor) -> Any:
    spikes, _ = net.lif3(net.conv(x))
    return net.lif2(net.fc(net.pool(spikes).flatten(1)))[0]


def test_a_neuron_that_is_given_no_state_makes_a_single_step() -> None:
    """snnTorch's neurons keep their membrane, init_hidden or not; what is not called is unused."""
    net = LoopNet(keeps_it_itself, lif3=snn.Leaky(0.7, 0.3), unused=snn.Leaky(0.5))
    graph = trace(enlivened(net), torch.rand(4, 1, 8, 8))
    assert graph.idiom == "step"
    assert assert_same_spikes(graph, random_plan(graph, 0), torch.rand(6, 1, 8, 8))["lif3"].any()


def test_a_loop_of_one_step_is_a_loop() -> None:
    def once(net: Any, x: Tensor) -> Any:
        spikes, _ = net.lif3(net.fc(net.pool(net.conv(x)).flatten(1)), net.lif3.reset_mem())
        return spikes

    graph = trace(LoopNet(once, lif3=snn.Leaky(0.7, 0.3)), torch.rand(4, 1, 8, 8))
    assert graph.idiom == "loop"


def test_decayed_input_is_not_taken_for_leaky() -> None:
    """Its trace agreed with itself, and its count was wrong by far."""

    def make(channels: int, dims: int, **options: Any) -> snn.Leaky:
        return DecayedInput(0.8, 0.2, spike_grad=arctan, **options)

    assert_as_by_itself(traced(make))
