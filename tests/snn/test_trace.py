"""Tracing: every idiom that users write, and the user's module untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from idioms import (
    MODULES,
    STEPS,
    hoisted_current,
    images,
    in_a_dictionary,
    indexed_frames,
    into_a_buffer,
    into_a_buffer_by_batch,
    iterated_frames,
    leaky,
    listed,
    mean_over_time,
    membranes,
    one_step,
    python_sum,
    reset_by_utils,
    sliced_frames,
    stacked,
    stacked_along_the_second_axis,
    sum_from_zeros,
    sum_in_place,
    sum_over_time,
    unbound_frames,
    widths,
)
from networks import LoopNet, StepNet, TutorialNet, enlivened
from reference import frames_of, random_plan, run_plain
from snntorch import utils
from torch import Tensor, nn

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Kind
from spear_gym.snn.trace import register_neurons, reset_neurons, trace
from spear_gym.snn.zoo import cluttered_digits_net, digits_net

# ------------------------------------------------------------------ loops over time


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


# ------------------------------------------------------------------ frames


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


def test_a_compiled_network_is_read_as_what_it_was_made_from() -> None:
    net = StepNet().eval()
    compiled = torch.compile(net, backend="eager")
    graph = trace(compiled, images(4, 1, 16, 16))  # type: ignore[arg-type]
    assert type(graph.model) is StepNet
    assert [node.name for node in graph.nodes] == [
        node.name for node in trace(net, images(4, 1, 16, 16)).nodes
    ]
