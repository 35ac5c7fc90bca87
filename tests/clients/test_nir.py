"""NIR: graphs of other libraries, through the function that docs/networks.md gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from documents import page
from numpy.lib.stride_tricks import sliding_window_view
from reference import SpikeRecorder, random_plan, run_plain, slow_count
from torch import nn

nir = pytest.importorskip("nir", reason="nir is not installed")
pytest.importorskip("nirtorch", reason="snnTorch needs nirtorch to read NIR")

from spear_gym.pruning.surgery import prune_network
from spear_gym.snn.trace import trace

DT = 1e-4
STEPS, SAMPLES = 8, 6
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What the page's blocks about reading and about soft resets define."""
    blocks = re.findall(r"```python\n(.*?)```", page("networks.md"), flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec("import snntorch as snn", scope)
    for name in ("def from_nir", "class SoftReset"):
        (block,) = [block for block in blocks if name in block]
        exec(compile(block, "networks.md", "exec"), scope)
    return scope


# ------------------------------------------------------------------ graphs and their equations


def lif(*shape: int, tau: Any = 2.0, gain: Any = 1.0, **changed: float) -> Any:
    """A LIF whose time constant is `tau` steps and that adds `gain` times its input."""
    fields = {"v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changed
    taus = np.full(shape, tau) * DT
    values = {key: np.full(shape, value) for key, value in fields.items()}
    return nir.LIF(tau=taus, r=gain * taus / DT, **values)


def integrate(*shape: int, r: float = 1.0) -> Any:
    return nir.IF(r=np.full(shape, r), v_threshold=np.ones(shape))


def cuba(*shape: int) -> Any:
    """Two and four steps; currents and inputs are added whole."""
    values = {"tau_syn": 2 * DT, "tau_mem": 4 * DT, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0}
    return nir.CubaLIF(**{key: np.full(shape, value) for key, value in values.items()}, w_in=2.0)


def weights(*shape: int, grid: bool) -> Array:
    """On a grid of eighths sums are exact, and membranes often meet the threshold."""
    drawn = np.random.default_rng(sum(shape)).normal(scale=0.8, size=shape)
    return (np.round(drawn * 8) / 8 if grid else drawn).astype(np.float32)


def conv_graph(first: Any, second: Any, last: Any, grid: bool = True) -> Any:
    """(1, 8, 8): conv 4, pooled, conv 6 with stride and padding, flatten, linear 5."""
    nodes = {
        "input": nir.Input(np.array([1, 8, 8])),
        "conv1": nir.Conv2d((8, 8), weights(4, 1, 3, 3, grid=grid), 1, 0, 1, 1, np.zeros(4)),
        "first": first,
        "pool": nir.AvgPool2d(kernel_size=2, stride=2, padding=0),
        "conv2": nir.Conv2d((3, 3), weights(6, 4, 3, 3, grid=grid), 2, 1, 1, 1, np.full(6, 0.25)),
        "second": second,
        "flat": nir.Flatten(np.array([6, 2, 2]), 0, -1),
        "fc": nir.Affine(weights(5, 24, grid=grid), np.full(5, 0.125)),
        "last": last,
        "output": nir.Output(np.array([5])),
    }
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)


def frames() -> Array:
    """Events, ``(time, batch, 1, 8, 8)``."""
    drawn = np.random.default_rng(0).random((STEPS, SAMPLES, 1, 8, 8))
    return (drawn < 0.4).astype(np.float32)


def convolved(x: Array, node: Any) -> Array:
    """A convolution with the node's stride and padding, ``(batch, channel, y, x)``."""
    rows, columns = np.broadcast_to(node.padding, 2)
    down, right = np.broadcast_to(node.stride, 2)
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    taps = sliding_window_view(padded, node.weight.shape[2:], axis=(2, 3))
    return (
        np.einsum("bcyxij,ocij->boyx", taps[:, :, ::down, ::right], node.weight)
        + node.bias[:, None, None]
    )


class Neurons:
    """NIR's equations, one Euler step of `DT` after the other."""

    def __init__(self, node: Any, at_threshold: bool) -> None:
        self.node, self.at_threshold = node, at_threshold
        self.current: Any = 0.0
        self.membrane: Any = 0.0

    def __call__(self, x: Array) -> Array:
        node, v = self.node, self.membrane
        if isinstance(node, nir.IF):
            v = v + x
        elif isinstance(node, nir.CubaLIF):
            self.current = self.current + DT / node.tau_syn * (-self.current + node.w_in * x)
            v = v + DT / node.tau_mem * (node.v_leak - v + node.r * self.current)
        else:
            v = v + DT / node.tau * (node.v_leak - v + node.r * x)
        fired = v >= node.v_threshold if self.at_threshold else v > node.v_threshold
        self.membrane = np.where(fired, node.v_reset, v)
        return fired.astype(np.float64)


def by_equations(graph: Any, x: Array, at_threshold: bool = False) -> dict[str, Array]:
    """What every node makes in float64, ``(time, batch, ...)``; the graph is a chain in order."""
    kinds = (nir.IF, nir.LIF, nir.CubaLIF)
    neurons = {
        name: Neurons(node, at_threshold)
        for name, node in graph.nodes.items()
        if isinstance(node, kinds)
    }
    made: dict[str, list[Array]] = {name: [] for name in graph.nodes}
    for value in x.astype(np.float64):
        for name, node in graph.nodes.items():
            if name in neurons:
                value = neurons[name](value)
            elif isinstance(node, nir.Conv2d):
                value = convolved(value, node)
            elif isinstance(node, nir.AvgPool2d):
                value = sliding_window_view(value, (2, 2), axis=(2, 3))[:, :, ::2, ::2].mean((4, 5))
            elif isinstance(node, nir.Flatten):
                value = value.reshape(len(value), -1)
            elif isinstance(node, nir.Affine):
                value = value @ node.weight.T + node.bias
            made[name].append(value)
    return {name: np.stack(values) for name, values in made.items()}


def behind(names: list[str], layer: str) -> str:
    return names[names.index(layer) - 1]


# ------------------------------------------------------------------ exact


SHAPES = ((4, 6, 6), (6, 2, 2), (5,))
EXACT = [
    pytest.param([lif(*shape) for shape in SHAPES], True, id="LIF"),
    pytest.param(
        [lif(*shape, tau=3.0, gain=1 / 3, v_threshold=1 / 3) for shape in SHAPES], False, id="r = 1"
    ),
    pytest.param([integrate(*shape) for shape in SHAPES], True, id="IF of Norse"),
    pytest.param([integrate(*shape, r=1 / DT) for shape in SHAPES], True, id="IF of SpikingJelly"),
    pytest.param([cuba(*shape) for shape in SHAPES], True, id="CubaLIF"),
    pytest.param([lif(), lif(), integrate(5)], True, id="one number a layer"),
]


@pytest.mark.parametrize("at_threshold", [False, True])
@pytest.mark.parametrize(("neurons", "grid"), EXACT)
def test_spikes_and_synops(
    given: dict[str, Any], neurons: list[Any], grid: bool, at_threshold: bool
) -> None:
    graph, x = conv_graph(*neurons, grid=grid), frames()
    expected = by_equations(graph, x, at_threshold)
    network = given["from_nir"](graph, fires_at_threshold=at_threshold)
    inputs = torch.tensor(x)
    traced = trace(network, inputs, varying=True, events=True)
    assert {group.name: group.channels for group in traced.groups} == {"conv1": 4, "conv2": 6}

    simulator = SpikeRecorder(traced, inputs.transpose(0, 1), STEPS)
    walk = simulator.run()
    assert set(simulator.spikes) == {"first", "second", "last"}
    for name, spikes in simulator.spikes.items():
        assert np.array_equal(spikes.numpy(), expected[name]), name
        assert 0.01 < spikes.mean() < 0.9, name
    names = list(graph.nodes)
    for name in ("conv1", "conv2", "fc"):
        seen = torch.tensor(expected[behind(names, name)])
        count = slow_count(network.get_submodule(name), expected[name].shape[2:], seen, every=False)
        assert walk.layers[name].synops == count > 0


def test_the_threshold_itself_matters() -> None:
    """The frames above tell "at" from "above"."""
    graph = conv_graph(lif(4, 6, 6), lif(6, 2, 2), lif(5))
    above, at = (by_equations(graph, frames(), choice) for choice in (False, True))
    assert (above["first"] != at["first"]).any()


def test_is_pruned(given: dict[str, Any]) -> None:
    """State of a number a neuron is cut with the channels."""
    network = given["from_nir"](conv_graph(lif(4, 6, 6), cuba(6, 2, 2), lif(5)))
    inputs = torch.tensor(frames())
    traced = trace(network, inputs, varying=True, events=True)
    for seed in range(3):
        plan = random_plan(traced, seed)
        simulator = SpikeRecorder(traced, inputs.transpose(0, 1), STEPS)
        simulator.run(plan)
        plain = run_plain(prune_network(traced, plan), inputs)
        for name, spikes in plain.spikes.items():
            assert torch.equal(simulator.spikes[name], spikes), name


# ------------------------------------------------------------------ refused


def linear_graph(neuron: Any) -> Any:
    return nir.NIRGraph.from_list(nir.Affine(weights(5, 64, grid=True), np.zeros(5)), neuron)


def recurrent_graph() -> Any:
    nodes = {
        "input": nir.Input(np.array([5])),
        "layer.lif": lif(5),
        "layer.weights": nir.Linear(weights(5, 5, grid=True)),
        "output": nir.Output(np.array([5])),
    }
    circle = [("layer.lif", "layer.weights"), ("layer.weights", "layer.lif")]
    return nir.NIRGraph(nodes, [("input", "layer.lif"), *circle, ("layer.lif", "output")])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "v_reset": (lambda: linear_graph(lif(5, v_reset=-0.5)), "v_reset is not 0"),
    "fast": (lambda: linear_graph(lif(5, tau=0.5)), "time constant is below"),
    "gains": (lambda: linear_graph(lif(5, gain=np.linspace(0.5, 2, 5))), "differently"),
    "IF": (lambda: linear_graph(integrate(5, r=0.5)), "r is neither"),
    "recurrent": (recurrent_graph, "cycle"),
    "v_leak": (lambda: linear_graph(lif(5, v_leak=0.1)), "v_leak not supported"),
    "readout": (lambda: linear_graph(nir.LI(*[np.ones(5)] * 3)), "Unknown node type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(given: dict[str, Any], name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises((ValueError, AssertionError), match=message):
        given["from_nir"](make())


# ------------------------------------------------------------------ what NIR has no word for


def test_soft_reset(given: dict[str, Any]) -> None:
    """What is above the threshold stays, once: by the class that the page gives."""
    weight = weights(5, 64, grid=True)
    neuron = given["SoftReset"](
        0.5, init_hidden=True, reset_mechanism="subtract", reset_delay=False
    )
    layer = nn.Linear(64, 5, bias=False)
    layer.weight.data = torch.tensor(weight)
    network = nn.Sequential(layer, neuron)
    x = frames().reshape(STEPS, SAMPLES, 64)
    membrane, fired = np.zeros((SAMPLES, 5)), []
    for value in x:
        membrane = 0.5 * membrane + value @ weight.T
        fired.append(membrane > 1)
        membrane = membrane - fired[-1]
    spikes = run_plain(network, torch.tensor(x)).spikes["1"]
    assert np.array_equal(spikes.numpy(), np.stack(fired))
    assert 0.05 < spikes.mean() < 0.9
