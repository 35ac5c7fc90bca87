"""Recurrent neurons: any setting against plain snnTorch, what is refused, a whole run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import enlivened, recurrent_net
from neuron_kinds import some
from reference import assert_same_spikes, frames_of, in_float64, random_plan, run_plain, slow_count
from safetensors.torch import load
from snntorch import surrogate, utils
from torch import Tensor, nn
from torch.nn.utils import prune
from training_steps import arctan, assert_same_training_step, loop_readout

from spear_gym.boundary.files import tensor_bytes
from spear_gym.evaluation import PlanEvaluator
from spear_gym.lre.sampling import expected_fraction
from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import grafted_network, prune_network
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.simulation.simulate import Simulator
from spear_gym.snn.errors import TraceError
from spear_gym.snn.neurons.recurrent import Recurrent
from spear_gym.snn.neurons.rleaky import RLeaky
from spear_gym.snn.trace import trace
from spear_gym.training import Recipe
from spear_gym.workload import Workload, measure

Make = Callable[..., Any]
makes = pytest.mark.parametrize("make", [snn.RLeaky, snn.RSynaptic])


def net_of(*neurons: nn.Module) -> nn.Sequential:
    """conv - neuron - flatten - linear - neuron - linear, on (1, 5, 6)."""
    first, second = neurons
    layers = (nn.Conv2d(1, 4, 2), first, nn.Flatten(), nn.Linear(80, 6), second, nn.Linear(6, 3))
    return nn.Sequential(*layers)


def neuron(make: Make, **options: Any) -> Any:
    decays = {"alpha": 0.5} if make is snn.RSynaptic else {}
    return make(**{"beta": 0.7, "threshold": 0.3, "init_hidden": True} | decays | options)


def features(make: Make, **options: Any) -> nn.Sequential:
    """A network with one recurrent layer, of 6 neurons."""
    return net_of(snn.Leaky(0.7, init_hidden=True), neuron(make, **options))


# ------------------------------------------------------------------ what a SynOp is


def test_synops_by_hand() -> None:
    """Three neurons that fire when driven, over four frames; each has a recurrent synapse to each.

    Spikes (by frame): 110, 100, 000, 111. Those of the first three frames come back, 3 spikes with
    3 synapses each, so 9; those of the last frame come after the end. Each spike has 2 synapses in
    the classifier: 6 * 2. One to one each of the 3 spikes has 1 synapse. Without neuron 1: spikes
    10, 10, 00, 11, 2 * 2 recurrent SynOps, and one to one 2.
    """
    frames = torch.tensor([[[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]])
    silent = {"beta": 0.0, "threshold": 0.5, "reset_mechanism": "none", "init_hidden": True}
    wirings = [({"linear_features": 3}, (9, 4)), ({"all_to_all": False}, (3, 2))]
    for wiring, expected in wirings:
        own = snn.RLeaky(**silent, **wiring)
        net = nn.Sequential(nn.Linear(3, 3, bias=False), own, nn.Linear(3, 2))
        with torch.no_grad():
            net[0].weight.copy_(torch.eye(3))
            for parameter in own.recurrent.parameters():
                parameter.zero_()  # zero-valued weights count
        shown = frames.transpose(0, 1).expand(4, 2, 3).clone()
        graph = trace(net, shown, varying=True, events=True)
        middle_gone = Plan(("0",), (3,), ((0, 2),))
        for plan, recurrent in zip((None, middle_gone), expected, strict=True):
            walk = Simulator(graph, frames, 4).run(plan)
            assert walk.layers["1.recurrent"].synops == recurrent
            assert walk.layers["2"].synops == 2 * (6 if plan is None else 4)
            assert walk.synops == sum(count.synops for count in walk.layers.values())


# ------------------------------------------------------------------ any setting


@st.composite
def recurrent(draw: st.DrawFn, dims: int, channels: int) -> nn.Module:
    """A recurrent neuron of any kind."""
    make = draw(st.sampled_from([snn.RLeaky, snn.RSynaptic]))
    kernels = st.sampled_from([1, 3, 5, (3, 1), (1, 5)])
    wirings: list[dict[str, Any]] = [
        {"all_to_all": False, "V": torch.randn(channels, *(1,) * dims)},
        {"all_to_all": False, "V": 0.7},
        {"conv2d_channels": channels, "kernel_size": draw(kernels)}
        if dims
        else {"linear_features": channels},
    ]
    options = {
        **draw(st.sampled_from(wirings)),
        "beta": some(0.3, 1.2, channels, dims),
        "threshold": some(0.05, 0.3, channels, dims),
        "reset_mechanism": draw(st.sampled_from(["subtract", "zero", "none"])),
        "reset_delay": draw(st.booleans()) or make is snn.RSynaptic,
        "init_hidden": True,
        "spike_grad": arctan,
        **{name: draw(st.booleans()) for name in ("learn_beta", "learn_recurrent")},
    }
    made = neuron(make, **options)
    if isinstance(made.recurrent, nn.Conv2d | nn.Linear) and draw(st.booleans()):
        made.recurrent.bias = None
    if draw(st.booleans()):
        made.graded_spikes_factor.fill_(1.5)
    return made


@settings(max_examples=20)
@given(st.data(), st.integers(0, 99), st.booleans())
def test_any_setting(data: st.DataObject, seed: int, varying: bool) -> None:
    torch.manual_seed(seed)
    net = enlivened(net_of(data.draw(recurrent(2, 4)), data.draw(recurrent(0, 6))))
    shown = torch.rand(3, 2, 1, 5, 6) if varying else torch.rand(2, 1, 5, 6)
    graph = trace(net, shown, varying=varying)
    graph.model.double()
    shape = (4, 3, 1, 5, 6) if varying else (4, 1, 5, 6)
    inputs, plan = torch.rand(shape, dtype=torch.float64), random_plan(graph, seed)
    walk = Simulator(graph, inputs, 3).run(plan)
    pruned = in_float64(prune_network(graph, plan))
    plain = run_plain(pruned, frames_of(inputs, 3, varying))
    for name in ("1", "4"):
        own, fired = pruned.get_submodule(name), plain.spikes[name]
        assert walk.neurons[name].spikes == int(torch.count_nonzero(fired))
        came_back = fired[:-1]
        count = int(torch.count_nonzero(came_back))
        if own.all_to_all:
            count = slow_count(own.recurrent, tuple(fired.shape[2:]), came_back, every=False)
        assert walk.layers[f"{name}.recurrent"].synops == count
    for name in ("3", "5"):
        layer = pruned.get_submodule(name)
        count = slow_count(layer, plain.shapes[name], plain.inputs[name], every=False)
        assert walk.layers[name].synops == count
    torch.testing.assert_close(walk.readout, plain.outputs.mean(0), rtol=1e-9, atol=1e-9)
    assert walk.parameters == sum(p.numel() for p in pruned.parameters())
    grafted = graph.rebind(grafted_network(graph, plan, pruned))
    again = prune_network(grafted, plan).state_dict()
    assert all(torch.equal(again[key], value) for key, value in pruned.state_dict().items())
    assert_same_training_step(graph, inputs, partial(loop_readout, steps=3), steps=3)


@makes
def test_a_network_in_float64(make: Make) -> None:
    # .double() reaches only one of the two V that snnTorch holds where it is not learned.
    own = neuron(
        make,
        threshold=0.02,
        all_to_all=False,
        V=torch.rand(6),
        learn_recurrent=False,
        spike_grad=arctan,
    )
    net = enlivened(net_of(snn.Leaky(0.7, 0.3, spike_grad=arctan, init_hidden=True), own)).double()
    graph = trace(net, torch.rand(4, 1, 5, 6, dtype=torch.float64))
    spikes = assert_same_spikes(graph, random_plan(graph, 1), torch.rand(4, 1, 5, 6).double())
    assert spikes["4"].any()


def test_state_goes_into_an_instance_of_the_pruned_size() -> None:
    graph, inputs, steps = recurrent_net()
    plan = random_plan(graph, 5, (0.3, 0.6))
    pruned = prune_network(graph, plan)
    one, two, three = (len(kept) for kept in plan.kept)
    fresh = copy.deepcopy(pruned)
    reset = {"init_hidden": True, "threshold": 0.3}
    fresh[1] = snn.RLeaky(0.7, conv2d_channels=one, kernel_size=3, **reset)
    fresh[3] = snn.RLeaky(0.6, all_to_all=False, V=torch.zeros(two, 1, 1), **reset)
    fresh[6] = snn.RSynaptic(0.5, 0.6, linear_features=three, reset_mechanism="zero", **reset)
    fresh.load_state_dict(pruned.state_dict())
    expected = run_plain(pruned, [inputs] * steps).outputs
    assert torch.equal(run_plain(fresh, [inputs] * steps).outputs, expected)


# ------------------------------------------------------------------ as people write it


class Loop(nn.Module):
    """A loop over time, its states handled by ``way``."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], hidden: bool) -> None:
        super().__init__()
        self.way = way
        self.fc1, self.fc2 = nn.Linear(30, 6), nn.Linear(6, 3)
        self.lif1 = neuron(snn.RLeaky, linear_features=6, init_hidden=hidden)
        self.lif2 = neuron(snn.RSynaptic, all_to_all=False, V=torch.rand(3), init_hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x.flatten(1))


def from_init(net: Any, x: Tensor) -> Tensor:
    spk1, mem1 = net.lif1.init_rleaky()
    spk2, syn2, mem2 = net.lif2.init_rsynaptic()
    out = []
    for _ in range(4):
        spk1, mem1 = net.lif1(net.fc1(x), spk1, mem1)
        spk2, syn2, mem2 = net.lif2(net.fc2(spk1), spk2, syn2, mem2)
        out.append(spk2)
    return torch.stack(out)


def from_zeros(net: Any, x: Tensor) -> Tensor:
    spk1 = mem1 = torch.zeros(len(x), net.fc1.out_features)
    spk2 = syn2 = mem2 = torch.zeros(len(x), 3)
    total = 0
    for _ in range(4):
        spk1, mem1 = net.lif1(net.fc1(x), spk=spk1, mem=mem1)
        spk2, syn2, mem2 = net.lif2(net.fc2(spk1), spk2, syn2, mem2)
        total = total + spk2
    return total


def hidden_states(net: Any, x: Tensor) -> Tensor:
    utils.reset(net)
    return torch.stack([net.lif2(net.fc2(net.lif1(net.fc1(x)))) for _ in range(4)])


def membrane_as_spikes(net: Any, x: Tensor) -> Tensor:
    spk1, mem1 = net.lif1.reset_mem()
    for _ in range(4):
        spk1, mem1 = net.lif1(net.fc1(x), mem1, mem1)
    return net.fc2(spk1)


def spikes_of_another(net: Any, x: Tensor) -> Tensor:
    spk1, mem1 = net.lif1.reset_mem()
    dropped = spk1
    for _ in range(4):
        spk1, mem1 = net.lif1(net.fc1(x), dropped, mem1)
        dropped = nn.functional.avg_pool1d(spk1[None], 1)[0]
    return net.fc2(spk1)


@pytest.mark.parametrize("way", [from_init, from_zeros, hidden_states])
def test_loops(way: Callable[[Any, Tensor], Tensor]) -> None:
    net = enlivened(Loop(way, hidden=way is hidden_states), 3)
    graph = trace(net, torch.rand(4, 1, 5, 6))
    assert graph.idiom == "loop"
    inputs = torch.rand(6, 1, 5, 6)
    plan = random_plan(graph, 1, (0.4, 0.6))
    pruned = prune_network(graph, plan)
    walk = Simulator(graph, inputs, 4).run(plan)
    own = pruned(inputs)
    assert torch.equal(walk.readout, own if way is from_zeros else own.sum(0))
    assert walk.layers["lif1.recurrent"].synops > 0 < walk.neurons["lif2"].spikes


@pytest.mark.parametrize("way", [membrane_as_spikes, spikes_of_another])
def test_spikes_that_are_not_its_own(way: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(TraceError, match=r"neuron 'lif1' is given a.* that is not its own"):
        trace(Loop(way, hidden=False), torch.rand(4, 1, 5, 6))


def cut_off(net: Any, x: Tensor) -> Tensor:
    spk1, mem1 = net.lif1.reset_mem()
    spk2, syn2, mem2 = net.lif2.reset_mem()
    out = []
    for _ in range(4):
        spk1, mem1 = net.lif1(net.fc1(x), spk1.detach(), mem1)
        spk2, syn2, mem2 = net.lif2(net.fc2(spk1), spk2, syn2, mem2)
        out.append(spk2)
    return torch.stack(out)


def test_recurrent_spikes_cut_off_from_training() -> None:
    graph = trace(enlivened(Loop(cut_off, hidden=False), 3), torch.rand(4, 1, 5, 6))
    with pytest.raises(TraceError, match="fine-tuning would not train"):
        check_simulation(graph, torch.rand(4, 1, 5, 6), 4)
    graph = trace(enlivened(Loop(from_init, hidden=False), 3), torch.rand(4, 1, 5, 6))
    check_simulation(graph, torch.rand(4, 1, 5, 6), 4)


class Tied(nn.Module):
    """Recurrence behind an addition, a concatenation and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(1, size, 3) for size in (4, 4, 3))
        self.lif1 = neuron(snn.RLeaky, conv2d_channels=4, kernel_size=3, spike_grad=arctan)
        self.lif2 = neuron(snn.RLeaky, conv2d_channels=7, kernel_size=1, spike_grad=arctan)
        self.lif3 = neuron(snn.RLeaky, linear_features=84, spike_grad=arctan)
        self.fc = nn.Linear(84, 3)
        self.lif4 = neuron(snn.RSynaptic, linear_features=3, threshold=0.1, spike_grad=arctan)

    def forward(self, x: Tensor) -> Tensor:
        added = self.lif1(self.a(x) + self.b(x))
        both = self.lif2(torch.cat([added, self.c(x)], 1))
        return self.lif4(self.fc(self.lif3(both.flatten(1))))


def test_channels_that_are_tied_or_joined() -> None:
    graph = trace(enlivened(Tied(), 3), torch.rand(4, 1, 5, 6))
    graph.model.double()
    assert [group.channels for group in graph.groups] == [4, 3]
    for seed in range(3):
        inputs = torch.rand(4, 1, 5, 6, dtype=torch.float64)
        spikes = assert_same_spikes(graph, random_plan(graph, seed, (0.3, 0.8)), inputs)
        assert all(fired.any() for fired in spikes.values())


# ------------------------------------------------------------------ a whole run


def test_a_workload_goes_through_everything() -> None:
    graph, _, _ = recurrent_net()
    inputs = torch.rand(32, 1, 8, 8)
    data = (inputs, torch.arange(32) % 3)
    workload = Workload(
        model=graph.model,
        train=data,
        search=data,
        test=data,
        num_steps=4,
        finetune=Recipe(epochs=1),
        calibration_samples=16,
    )
    evaluator = PlanEvaluator(workload, scoring="refit")
    counts = tuple(max(1, group.channels - 2) for group in evaluator.space.groups)
    scored = evaluator.evaluate(counts)
    pruned = prune_network(workload.graph, evaluator.space.plan(counts))
    plain = measure(workload, pruned, "search")
    assert 0 < scored.synops < evaluator.reference.synops
    names = [layer.name for layer in plain.layers]
    assert names == ["0", "1.recurrent", "2", "3.recurrent", "5", "6.recurrent", "7"]
    tuned = evaluator.finetune(counts, seed=0)
    for name, parameter in pruned.named_parameters():
        trained = tuned.model.get_parameter(name)
        assert trained.shape == parameter.shape
        if "recurrent" in name or name.endswith("V"):
            assert not torch.equal(trained, parameter), name
    assert tuned.model[6].linear_features == counts[2]
    # V stands twice in a state_dict, and once in memory.
    kept = load(tensor_bytes(tuned.model.state_dict()))
    assert kept.keys() == tuned.model.state_dict().keys()
    assert torch.equal(kept["3.V"], kept["3.recurrent.V"])
    pruned.load_state_dict(kept)
    assert measure(workload, pruned, "search") == tuned.search


def test_expected_synops_know_recurrent_synapses() -> None:
    graph, inputs, steps = recurrent_net()
    data = (inputs, torch.arange(9) % 3)
    workload = Workload(model=graph.model, train=data, search=data, test=data, num_steps=steps)
    evaluator = PlanEvaluator(workload, scoring="plain")
    whole = tuple(group.channels for group in evaluator.space.groups)
    assert expected_fraction(evaluator, whole) == pytest.approx(1.0)
    layers = evaluator.reference.layer_synops
    kept = (3 / 5, 2 / 4, 4 / 7)
    expected = (
        layers["1.recurrent"] * kept[0] ** 2
        + layers["2"] * kept[0] * kept[1]
        + layers["3.recurrent"] * kept[1]
        + layers["5"] * kept[1] * kept[2]
        + layers["6.recurrent"] * kept[2] ** 2
        + layers["7"] * kept[2]
    )
    found = expected_fraction(evaluator, (3, 2, 4)) * evaluator.reference.synops
    assert found == pytest.approx(expected)


# ------------------------------------------------------------------ refusals


class Decayed(snn.RLeaky):
    """Another formula."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return self.beta * self.mem + 0.5 * input_ + self.recurrent(self.spk)


class Defaults(snn.RLeaky):
    """Only sets defaults."""

    def __init__(self, **options: Any) -> None:
        super().__init__(0.7, threshold=0.3, linear_features=6, **options)


def replaced(layer: nn.Module) -> nn.Sequential:
    """Another recurrent layer than snnTorch's."""
    net = features(snn.RLeaky, linear_features=6)
    net[4].recurrent = layer
    return net


def hooked() -> nn.Sequential:
    net = features(snn.RLeaky, linear_features=6)
    net[4].recurrent.register_forward_hook(lambda _module, _args, output: 2 * output)
    return net


def pruned_layer() -> nn.Sequential:
    net = features(snn.RLeaky, linear_features=6)
    prune.random_unstructured(net[4].recurrent, "weight", 0.5)
    return net


def other_v() -> nn.Sequential:
    net = features(snn.RLeaky, all_to_all=False, V=torch.rand(6), learn_recurrent=False)
    net[4].V = torch.rand(6)
    return net


def patched() -> nn.Sequential:
    net = features(snn.RLeaky, linear_features=6)
    net[4].fire = lambda mem: surrogate.atan()(mem - 1)
    return net


def read_from_outside() -> nn.Module:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(4, 6), neuron(snn.RLeaky, linear_features=6)
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lif.recurrent(self.lif(self.fc(x.flatten(1)[:, :4]))))

    return Outside()


def on_rows() -> nn.Sequential:
    return net_of(neuron(snn.RLeaky, linear_features=5), snn.Leaky(0.7, init_hidden=True))


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "subclass": (
        lambda: features(Decayed, linear_features=6),
        r"neuron '4' \(Decayed\) cannot be simulated: Decayed overrides _base_state_function; its "
        r"recurrent synapses are counted for snntorch.RLeaky as it is",
    ),
    "patched": (patched, r"neuron '4' \(RLeaky\) cannot be simulated: its fire is replaced"),
    "quantised": (
        lambda: features(snn.RLeaky, linear_features=6, state_quant=torch.round),
        r"neuron '4' \(RLeaky\) cannot be simulated: its state is quantised",
    ),
    "inhibition": (
        lambda: features(snn.RLeaky, linear_features=6, inhibition=True),
        r"neuron '4' \(RLeaky\) uses lateral inhibition",
    ),
    "reset at once": (
        lambda: features(snn.RSynaptic, linear_features=6, reset_delay=False),
        r"neuron '4' \(RSynaptic\) has reset_delay=False, which snnTorch does not carry out",
    ),
    "another layer": (
        lambda: replaced(nn.Sequential(nn.Linear(6, 6))),
        r"neuron '4' \(RLeaky\) has a recurrent layer of the class Sequential",
    ),
    "groups": (
        lambda: net_of(grouped(), snn.Leaky(0.7, init_hidden=True)),
        r"neuron '1' \(RLeaky\) has a recurrent layer that is not from all channels to all",
    ),
    "even kernel": (
        lambda: net_of(
            neuron(snn.RLeaky, conv2d_channels=4, kernel_size=2), snn.Leaky(0.7, init_hidden=True)
        ),
        r"neuron '1' \(RLeaky\) has a recurrent convolution of kernel_size \(2, 2\)",
    ),
    "hook": (hooked, r"neuron '4' \(RLeaky\) has a recurrent layer with a hook"),
    "pruned by torch": (pruned_layer, r"neuron '4' \(RLeaky\) has a recurrent layer that computes"),
    "another V": (other_v, r"neuron '4' \(RLeaky\) holds a V that differs from `recurrent.V`"),
    "rows": (
        on_rows,
        r"neuron '1' \(RLeaky\) has recurrent synapses that need \(batch, features\)",
    ),
    "recurrent layer read twice": (
        read_from_outside,
        r"modules 'lif' and 'lif.recurrent' share a parameter",
    ),
}


def grouped() -> nn.Module:
    own = neuron(snn.RLeaky, conv2d_channels=4, kernel_size=3)
    own.recurrent = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    return own


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_reason(name: str) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(TraceError, match=message):
        trace(make(), torch.rand(4, 1, 5, 6))


def test_what_is_not_refused() -> None:
    ours = net_of(snn.Leaky(0.7, init_hidden=True), Defaults(init_hidden=True))
    assert trace(ours, torch.rand(4, 1, 5, 6)).neurons[1].neuron == RLeaky(
        "subtract", wiring="linear", bias=True
    )
    dilated = nn.Conv2d(4, 4, 3, padding="same", dilation=2, bias=False)
    own = neuron(snn.RLeaky, conv2d_channels=4, kernel_size=3)
    own.recurrent = dilated
    graph = trace(net_of(own, snn.Leaky(0.7, init_hidden=True)), torch.rand(4, 1, 5, 6))
    found = graph.neurons[0].neuron
    assert isinstance(found, Recurrent)
    assert (found.wiring, found.bias, found.padding, found.dilation) == (
        "conv2d",
        False,
        "same",
        (2, 2),
    )
