"""Tracing: every idiom that users write, the user's module untouched, refusals by name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from networks import FramesNet, GroupNet, LoopNet, ResidualNet, StepNet, TutorialNet, enlivened
from reference import frames_of, random_plan, reset_own, run_plain
from snntorch import surrogate, utils
from torch import Tensor, nn
from torch.nn.utils import prune

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import CONNECTIONS, Kind, SpikingGraph
from spear_gym.snn.trace import register_neurons, reset_neurons, trace
from spear_gym.snn.zoo import cluttered_digits_net, digits_net

STEPS = 3


def leaky(**options: Any) -> snn.Leaky:
    return snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True, **options)


def images(batch: int = 4, *shape: int) -> Tensor:
    return torch.rand(batch, *(shape or (1, 8, 8)))


def widths(graph: SpikingGraph) -> dict[str, int]:
    return {group.name: group.channels for group in graph.groups}


def members(graph: SpikingGraph, group: str) -> list[str]:
    found = next(g for g in graph.groups if g.name == group)
    return [graph.nodes[index].name for index in found.members]


# ------------------------------------------------------------------ ways to loop over time


def stacked(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    recording = [net.lif2(net.current(x)) for _ in range(STEPS)]
    return torch.stack([spk for spk, _ in recording]), torch.stack([mem for _, mem in recording])


def stacked_along_the_second_axis(net: LoopNet, x: Tensor) -> Any:
    return torch.stack(listed(net, x), dim=1)


def listed(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    return [net.lif2(net.current(x))[0] for _ in range(STEPS)]


def in_a_dictionary(net: LoopNet, x: Tensor) -> Any:
    return {"spikes": torch.stack(listed(net, x)), "steps": STEPS}


def membranes(net: LoopNet, x: Tensor) -> Any:
    return stacked(net, x)[1]


def reset_by_utils(net: LoopNet, x: Tensor) -> Any:
    utils.reset(net)
    return torch.stack([net.lif2(net.current(x))[0] for _ in range(STEPS)])


def into_a_buffer(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    recording = torch.zeros(STEPS, x.shape[0], 4)
    for step in range(STEPS):
        spk, _ = net.lif2(net.current(x))
        recording[step] = spk
    return recording


def into_a_buffer_by_batch(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    recording = torch.empty(x.size(0), STEPS, 4)
    for step in range(STEPS):
        recording[:, step] = net.lif2(net.current(x))[0]
    return recording


def sum_from_zeros(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    total = torch.zeros(x.size(0), 4)
    for _ in range(STEPS):
        total = total + net.current(x)
    return total


def sum_in_place(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    total = torch.zeros(x.size(0), 4)
    for _ in range(STEPS):
        total += net.current(x)
    return total / STEPS


def python_sum(net: LoopNet, x: Tensor) -> Any:
    return sum(listed(net, x))


def sum_over_time(net: LoopNet, x: Tensor) -> Any:
    return torch.stack(listed(net, x)).sum(dim=0)


def mean_over_time(net: LoopNet, x: Tensor) -> Any:
    return torch.mean(torch.stack(listed(net, x), dim=1), dim=1)


def hoisted_current(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    current = net.conv(x)
    spikes = []
    for _ in range(STEPS):
        hidden = net.pool(net.lif1(current))
        spikes.append(net.lif2(net.fc(hidden.flatten(1)))[0])
    return torch.stack(spikes)


WAYS: dict[str, tuple[Callable[[LoopNet, Tensor], Any], str, Callable[[Any], Tensor]]] = {
    # name: the loop, the readout it shows, from its output to that readout
    "stacked": (stacked, "spikes", lambda out: out[0].sum(0)),
    "second axis": (stacked_along_the_second_axis, "spikes", lambda out: out.sum(1)),
    "list": (listed, "spikes", lambda out: torch.stack(out).sum(0)),
    "dictionary": (in_a_dictionary, "spikes", lambda out: out["spikes"].sum(0)),
    "membranes": (membranes, "membrane", lambda out: out.mean(0)),
    "utils.reset": (reset_by_utils, "spikes", lambda out: out.sum(0)),
    "buffer": (into_a_buffer, "spikes", lambda out: out.sum(0)),
    "buffer by batch": (into_a_buffer_by_batch, "spikes", lambda out: out.sum(1)),
    "sum from zeros": (sum_from_zeros, "current", lambda out: out / STEPS),
    "sum in place": (sum_in_place, "current", lambda out: out),
    "python sum": (python_sum, "spikes", lambda out: out),
    "sum": (sum_over_time, "spikes", lambda out: out),
    "mean": (mean_over_time, "spikes", lambda out: out * STEPS),
    "hoisted": (hoisted_current, "spikes", lambda out: out.sum(0)),
}


@pytest.mark.parametrize("name", WAYS)
def test_loops_over_time(name: str) -> None:
    way, readout, of_output = WAYS[name]
    net = enlivened(LoopNet(way))
    graph = trace(net, images())
    assert (graph.idiom, graph.traced_steps, graph.varying) == ("loop", STEPS, False)
    assert graph.readout == readout
    assert [node.name for node in graph.connections] == ["conv", "fc"]
    assert widths(graph) == {"conv": 6}
    inputs = images(5)
    for plan in (None, random_plan(graph, 1)):
        model = net if plan is None else register_neurons(prune_network(graph, plan))
        with torch.no_grad():
            own = of_output(model(inputs))
        assert own.any()
        torch.testing.assert_close(Simulator(graph, inputs, STEPS).run(plan).readout, own)


# ------------------------------------------------------------------ ways to take frames


def indexed_frames(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    return torch.stack([net.lif2(net.current(x[step]))[0] for step in range(x.size(0))])


def sliced_frames(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    return torch.stack([net.lif2(net.current(x[step, :, ...]))[0] for step in range(len(x))])


def iterated_frames(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    return torch.stack([net.lif2(net.current(x_t))[0] for x_t in x])


def unbound_frames(net: LoopNet, x: Tensor) -> Any:
    reset_own(net)
    return torch.stack([net.lif2(net.current(x_t))[0] for x_t in torch.unbind(x, dim=0)])


def one_step(net: LoopNet, x: Tensor) -> Any:
    return net.lif2(net.current(x))


@pytest.mark.parametrize(
    "way", [indexed_frames, sliced_frames, iterated_frames, unbound_frames, one_step]
)
def test_frames(way: Callable[[LoopNet, Tensor], Any]) -> None:
    net = enlivened(LoopNet(way))
    graph = trace(net, torch.rand(STEPS, 4, 1, 8, 8), varying=True, events=True)
    steps = way is one_step
    assert (graph.idiom, graph.traced_steps) == (("step", 1) if steps else ("loop", STEPS))
    assert not any(node.analog or node.static for node in graph.nodes)
    frames = torch.rand(5, STEPS, 1, 8, 8)
    calls = frames_of(frames, STEPS, True) if steps else [frames.transpose(0, 1)]
    own = run_plain(net, calls).outputs.reshape(STEPS, 5, 4).sum(0)
    assert own.any()
    assert torch.equal(Simulator(graph, frames, STEPS).run().readout, own)


# ------------------------------------------------------------------ the networks themselves


def test_one_step_returning_spikes_and_membrane() -> None:
    graph = trace(StepNet(), images(4, 1, 16, 16))
    kinds = [node.kind.value for node in graph.nodes]
    block = ["conv", "norm", "neuron", "pool"]
    assert kinds == ["input", *block, *block, "flatten", "linear", "neuron"]
    assert widths(graph) == {"conv1": 6, "conv2": 8}
    assert (graph.idiom, graph.traced_steps, graph.readout) == ("step", 1, "spikes")
    assert graph.nodes[graph.output].name == "lif3"
    assert graph.classifier.name == "fc"
    # The shared pooling module is two nodes.
    assert [n.name for n in graph.nodes if n.kind is Kind.POOL] == ["pool", "pool#2"]


def test_shapes_static_and_analog() -> None:
    graph = trace(StepNet(), images(4, 1, 16, 16))
    shapes = {node.name: node.shape for node in graph.nodes}
    assert shapes["conv1"] == (6, 16, 16)
    assert shapes["conv2"] == (8, 4, 4)
    assert shapes["flatten"] == (32,)
    assert [n.name for n in graph.nodes if n.static] == ["input", "conv1", "bn1"]
    assert [n.name for n in graph.nodes if n.analog] == ["input", "conv1", "bn1"]
    events = trace(StepNet(), images(4, 1, 16, 16), events=True)
    assert not any(node.analog for node in events.nodes)


@pytest.mark.parametrize("hoist", [False, True])
def test_tutorial(hoist: bool) -> None:
    graph = trace(TutorialNet(5, hoist), images(4, 1, 10, 10))
    assert (graph.idiom, graph.traced_steps, graph.readout) == ("loop", 5, "spikes")
    assert widths(graph) == {"conv1": 6, "conv2": 8}


def test_sequential() -> None:
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3), leaky(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 3), leaky()
    )
    graph = trace(net, images(4, 2, 8))
    assert widths(graph) == {"0": 4}
    assert graph.readout == "spikes"


def test_nested_blocks_and_functions_in_them() -> None:
    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.lif = leaky()

        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(self.lif(self.conv(x)), kernel_size=2)

    net = nn.Sequential(Block(1, 4), Block(4, 6), nn.Flatten(), nn.Linear(24, 3), leaky())
    graph = trace(net, images())
    assert widths(graph) == {"0.conv": 4, "1.conv": 6}
    assert [n.name for n in graph.nodes if n.kind is Kind.POOL] == ["0.max_pool2d", "1.max_pool2d"]


def test_per_channel_learned_beta() -> None:
    lif1 = snn.Leaky(torch.rand(6, 1, 1), 0.3, init_hidden=True, learn_beta=True)
    net = enlivened(LoopNet(one_step, lif1=lif1))
    graph = trace(net, images())
    plan = random_plan(graph, 0, ratios=(0.4, 0.6))
    pruned = prune_network(graph, plan)
    kept = list(plan.kept[0])
    assert isinstance(pruned.lif1.beta, nn.Parameter)
    assert torch.equal(pruned.lif1.beta, lif1.beta[kept])
    inputs = images(5)
    own = run_plain(pruned, [inputs] * STEPS).outputs.sum(0)
    assert torch.equal(Simulator(graph, inputs, STEPS).run(plan).readout, own)


def test_readout_can_be_chosen() -> None:
    for readout, name in (("current", "fc"), ("spikes", "lif3"), ("membrane", "lif3")):
        graph = trace(StepNet(), images(4, 1, 16, 16), readout=readout)
        assert graph.readout == readout
        assert graph.nodes[graph.output].name == name


def test_shipped_networks() -> None:
    digits = trace(digits_net(0), images())
    assert widths(digits) == {"conv1": 16, "conv2": 32, "conv3": 32, "conv4": 32}
    cluttered = trace(cluttered_digits_net(0), images(4, 1, 16, 16))
    assert len(widths(cluttered)) >= 5
    assert list(widths(cluttered).values()) == [
        node.shape[0] for node in cluttered.connections if node.kind is Kind.CONV
    ]
    assert digits.readout == cluttered.readout == "current"


def test_dropout_does_not_stand_in_for_its_source() -> None:
    """In eval mode dropout returns the very tensor it is given."""

    def way(net: LoopNet, x: Tensor) -> Any:
        hidden = net.pool(net.lif1(net.conv(x)))
        dropped = F.dropout(net.drop(hidden), 0.5, net.training)
        return net.fc((hidden + dropped).flatten(1))

    graph = trace(LoopNet(way, drop=nn.Dropout2d(0.5)), images())
    (added,) = (node for node in graph.nodes if node.kind is Kind.ADD)
    assert [graph.nodes[i].kind for i in added.inputs] == [Kind.POOL, Kind.DROPOUT]


# ------------------------------------------------------------------ the module stays as it was


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a module that tracing could change."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        state[f"{name} training"] = module.training
        state[f"{name} attributes"] = sorted(vars(module))
        for key, value in {**module._parameters, **module._buffers}.items():
            # Strong references, so that an identity cannot be given away again.
            state[f"{name} {key}"] = value
            state[f"{name} {key} values"] = None if value is None else value.detach().clone()
    return state


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key.endswith(" values") and value is not None:
            assert torch.equal(value, after[key]), key
        elif isinstance(value, Tensor):
            assert value is after[key], key
        else:
            assert value == after[key], key


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    # name: the module, its input, whether that is frames
    "step": (StepNet, (4, 1, 16, 16), False),
    "tutorial": (TutorialNet, (4, 1, 10, 10), False),
    "frames": (FramesNet, (5, 4, 2, 8, 8), True),
    "residual": (ResidualNet, (4, 1, 8, 8), False),
    "utils.reset": (lambda: LoopNet(reset_by_utils), (4, 1, 8, 8), False),
    "not in snnTorch's list": (lambda: digits_net(0), (4, 1, 8, 8), False),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_tracing_leaves_the_module_alone(name: str, has_run: bool, train: bool) -> None:
    make, shape, varying = MODULES[name]
    model, bystander = make().train(train), leaky()
    inputs = torch.rand(shape)
    bystander(torch.rand(3, 2))
    if has_run:
        model(inputs)  # with gradients: membranes are left that are no leaves
    mems = [m.mem for m in model.modules() if isinstance(m, snn.Leaky)]
    assert any(mem.grad_fn is not None for mem in mems) is has_run
    before, neurons = snapshot(model), list(snn.SpikingNeuron.instances)
    other, given = bystander.mem, inputs.clone()
    random = torch.get_rng_state()
    graph = trace(model, inputs, varying=varying)
    assert_same_state(before, snapshot(model))
    assert snn.SpikingNeuron.instances == neurons
    assert bystander.mem is other
    assert torch.equal(inputs, given)
    assert torch.equal(torch.get_rng_state(), random)
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    assert own.isdisjoint(id(t) for t in [*graph.model.parameters(), *graph.model.buffers()])
    assert not any(m.training for m in graph.model.modules())


def test_a_refusal_leaves_the_module_alone_too() -> None:
    model = LoopNet(lambda net, x: net.fc(torch.sigmoid(net.lif1(net.conv(x))).flatten(1)))
    before, neurons = snapshot(model), list(snn.SpikingNeuron.instances)
    with pytest.raises(TraceError):
        trace(model, images())
    assert_same_state(before, snapshot(model))
    assert snn.SpikingNeuron.instances == neurons


def test_reset_and_registration_reach_copies() -> None:
    net = LoopNet(one_step)
    twin = copy.deepcopy(net)
    count = len(snn.SpikingNeuron.instances)
    register_neurons(register_neurons(twin))
    assert len(snn.SpikingNeuron.instances) == count + 2
    with torch.no_grad():
        twin(images())
        net(images())
    reset_neurons(net)
    assert twin.lif1.mem.any()
    assert not net.lif1.mem.any()
    utils.reset(twin)
    assert not twin.lif1.mem.any()


# ------------------------------------------------------------------ refusals


class Parametric(nn.Module):
    """F.linear with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 96))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


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


def last_step_only(net: LoopNet, x: Tensor) -> Any:
    return listed(net, x)[-1]


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


def masked(conv: nn.Conv2d) -> nn.Conv2d:
    prune.l1_unstructured(conv, "weight", amount=0.5)
    return conv


def tied(net: LoopNet) -> LoopNet:
    net.other.weight = net.same.weight
    return net


def two_layers(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif3(net.other(net.lif1(net.same(net.lif4(net.conv(x))))))
    return net.fc(net.pool(hidden).flatten(1))


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(6, 6, 3, padding=1, **options)


def sequence(*middle: nn.Module) -> nn.Module:
    """conv - Leaky - flatten - ... - Leaky."""
    return nn.Sequential(nn.Conv2d(1, 6, 3), leaky(), nn.Flatten(), *middle, leaky())


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ReLU": (
        lambda: sequence(nn.Linear(216, 4), nn.ReLU()),
        r"neuron '5' reads the result of function 'relu' in module '4' \(ReLU\).*supported are",
    ),
    "LSTM": (
        lambda: LoopNet(
            lambda net, x: net.lif2(net.lstm(net.current(x)[:, None])[0][:, 0]),
            lstm=nn.LSTM(4, 4),
        ),
        r"neuron 'lif2' reads",
    ),
    "custom operation": (
        lambda: sequence(Swish(), nn.Linear(216, 4)),
        r"layer '4' \(Linear\) reads the result of function '\w+' in module '3' \(Swish\)",
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
    "RLeaky": (
        lambda: sequence(snn.RLeaky(0.5, init_hidden=True, linear_features=216)),
        r"neuron '3' is a RLeaky; only snntorch.Leaky is supported",
    ),
    "Synaptic": (
        lambda: sequence(snn.Synaptic(0.9, 0.8, init_hidden=True)),
        r"neuron '3' is a Synaptic; only snntorch.Leaky",
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
        r"neuron 'lif4' is given a membrane potential that is not its own",
    ),
    "last step only": (lambda: LoopNet(last_step_only), r"returns only step 2 of 'lif2'"),
    "last of the recording": (lambda: LoopNet(last_of_the_recording), r"function 'getitem'"),
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
    "quantised state": (
        lambda: LoopNet(one_step, lif1=leaky(state_quant=lambda mem: mem)),
        r"quantises its state",
    ),
    "reset mechanism changed": (
        lambda: LoopNet(one_step, lif1=changed_reset()),
        r"module 'lif1' \(Leaky\) was built with reset_mechanism 'subtract'",
    ),
    "random spikes": (
        lambda: LoopNet(one_step, lif1=leaky(spike_grad=coin)),
        r"module 'lif1' \(Leaky\) has a spike_grad that does not fire exactly when",
    ),
    "soft spikes": (
        lambda: LoopNet(one_step, lif1=leaky(spike_grad=torch.sigmoid)),
        r"module 'lif1' \(Leaky\) has a spike_grad that does not fire exactly when",
    ),
    "no neuron": (lambda: LoopNet(no_neuron), r"no spiking neuron was called"),
    "random input": (lambda: LoopNet(noisy), r"layer 'conv' \(Conv2d\) reads the result of"),
    "rate coding": (lambda: LoopNet(rate_coded), r"result of function 'bernoulli'"),
    "dropout that stays on": (lambda: LoopNet(noisy_layer), r"result of function 'dropout'"),
    "output with spatial axes": (lambda: LoopNet(not_a_vector), r"'lif1' has shape \(6, 8, 8\)"),
    "batch size written in": (lambda: LoopNet(fixed_batch), r"treat every batch size alike"),
    "no tensor returned": (lambda: LoopNet(no_tensor), r"forward returns str"),
    "pooling over features": (
        lambda: LoopNet(pool_over_features),
        r"function 'avg_pool1d' reads a tensor of shape \(4, 4\), which torch takes for a single",
    ),
    "two inputs": (lambda: LoopNet(needs_two_inputs), r"must accept one tensor"),
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
    net.conv.register_forward_hook(lambda _module, _args, output: output * 3)
    with pytest.raises(TraceError, match="function 'mul'"):
        trace(net, images())
    net = LoopNet(one_step)
    net.fc.register_forward_pre_hook(lambda _module, args: (args[0].add_(1),))
    with pytest.raises(TraceError):
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
    net = LoopNet(lambda net, x: net.lif2(net.current(torch.sigmoid(x))))
    with pytest.raises(TraceError, match=r"neither as a loop over time \(.*\) nor as a single"):
        trace(net, torch.rand(STEPS, 4, 1, 8, 8), varying=True)


def test_bad_examples_and_readouts() -> None:
    with pytest.raises(TraceError, match="at least 2 samples"):
        trace(StepNet(), images(1, 1, 16, 16))
    with pytest.raises(TraceError, match=r"needed, as \(time, batch"):
        trace(FramesNet(), torch.rand(5, 1, 2, 8, 8), varying=True)
    with pytest.raises(TraceError, match="readout is 'rate'; choose one of current, spikes"):
        trace(StepNet(), images(4, 1, 16, 16), readout="rate")  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="needs an output neuron"):
        trace(digits_net(0), images(), readout="spikes")


SURROGATES = ["atan", "fast_sigmoid", "heaviside", "SFS", "sigmoid", "SSO", "triangular"]


@pytest.mark.parametrize("make", [getattr(surrogate, name) for name in SURROGATES])
def test_deterministic_surrogates_are_accepted(make: Callable[[], Any]) -> None:
    assert trace(LoopNet(one_step, lif1=leaky(spike_grad=make())), images()).groups


# ------------------------------------------------------------------ groups


def test_groups_of_tied_layers() -> None:
    graph = trace(GroupNet(), images())
    # In the order of their first members; grouped convolutions fix the channels on both sides,
    # and the classes of fc are never pruned.
    assert widths(graph) == {"stem": 8, "point": 6, "wide": 4, "hidden": 7}
    assert members(graph, "stem") == ["stem", "depthwise"]
    assert members(graph, "point") == ["point", "side"]
    assert members(graph, "wide") == ["wide"]
    order = [group.members[0] for group in graph.groups]
    assert order == sorted(order)


def test_groups_prune_to_the_same_spikes() -> None:
    graph = trace(enlivened(GroupNet(), 3), images())
    inputs = images(5)
    for seed in range(5):
        plan = random_plan(graph, seed)
        pruned = prune_network(graph, plan)
        own = run_plain(pruned, [inputs] * STEPS)
        torch.testing.assert_close(
            Simulator(graph, inputs, STEPS).run(plan).readout, own.outputs.mean(0)
        )
        assert pruned.stem.out_channels == pruned.depthwise.groups == len(plan.kept[0])
        assert pruned.before.in_channels == len(plan.kept[1]) + len(plan.kept[2])
        assert pruned.grouped.groups == 2


def test_an_addition_with_the_input_is_not_pruned() -> None:
    net = LoopNet(
        lambda net, x: net.fc(net.pool(net.lif1(x + net.same(net.lif3(net.conv(x))))).flatten(1)),
        conv=nn.Conv2d(6, 5, 3, padding=1),
        same=nn.Conv2d(5, 6, 3, padding=1),
        lif3=leaky(),
    )
    assert widths(trace(net, images(4, 6, 8, 8))) == {"conv": 5}


def test_an_addition_whose_segments_do_not_line_up_is_not_pruned() -> None:
    net = LoopNet(
        lambda net, x: net.fc(
            net.pool(
                torch.cat([net.lif1(net.conv(x)), net.lif3(net.other(x))], 1)
                + net.lif4(net.whole(x))
            ).flatten(1)
        ),
        conv=nn.Conv2d(1, 2, 3, padding=1),
        other=nn.Conv2d(1, 4, 3, padding=1),
        whole=nn.Conv2d(1, 6, 3, padding=1),
        lif3=leaky(),
        lif4=leaky(),
    )
    assert trace(net, images()).groups == ()


def test_inputs_and_classes_are_in_no_group() -> None:
    for make, shape, varying in MODULES.values():
        graph = trace(make(), torch.rand(shape), varying=varying)
        pruned = {group.space for group in graph.groups}
        for fixed in (graph.nodes[0], graph.nodes[graph.output]):
            assert pruned.isdisjoint(segment.space for segment in fixed.channels)
        for group in graph.groups:
            assert all(graph.nodes[index].kind in CONNECTIONS for index in group.members)


# ------------------------------------------------------------------ groups by Torch-Pruning


def torch_pruning_groups(model: nn.Module, inputs: Tensor, classifier: nn.Module) -> set[Any]:
    """Sets of layers whose output channels Torch-Pruning would remove together."""
    tp = pytest.importorskip("torch_pruning")
    reset_own(model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    names = {module: name for name, module in model.named_modules()}
    layers = [nn.Conv2d, nn.Linear]
    groups = graph.get_all_groups(ignored_layers=[classifier], root_module_types=layers)
    return {
        frozenset(
            names[dependency.target.module]
            for dependency, _ in group
            if graph.is_out_channel_pruning_fn(dependency.handler)
            and isinstance(dependency.target.module, tuple(layers))
        )
        for group in groups
    }


def test_groups_of_a_plain_network_by_torch_pruning() -> None:
    net = digits_net(0)
    graph = trace(net, images())
    ours = {frozenset(members(graph, group.name)) for group in graph.groups}
    assert ours == torch_pruning_groups(net, images(), net.classifier)


def residual(net: LoopNet, x: Tensor) -> Any:
    hidden = net.lif1(net.conv(x))
    hidden = hidden + net.lif3(net.same(hidden))
    hidden = net.lif4(net.depthwise(hidden))
    return net.lif2(net.fc(net.pool(net.lif5(net.other(hidden))).flatten(1)))


def test_groups_of_a_residual_network_by_torch_pruning() -> None:
    net = LoopNet(
        residual,
        same=conv(),
        depthwise=conv(groups=6),
        other=conv(),
        lif3=leaky(),
        lif4=leaky(),
        lif5=leaky(),
    )
    graph = trace(net, images())
    ours = {frozenset(members(graph, group.name)) for group in graph.groups}
    assert ours == {frozenset({"conv", "same", "depthwise"}), frozenset({"other"})}
    assert ours == torch_pruning_groups(net, images(), net.fc)
