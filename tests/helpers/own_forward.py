"""A traced network held against its own forward, to the last spike and synaptic operation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from reference import (
    Products,
    SpikeRecorder,
    in_float64,
    own_readout,
    run_own,
    slow_count,
)
from strangers import STEPS
from torch import Tensor, nn

from spear_gym.pruning.plan import Plan
from spear_gym.pruning.surgery import check_surgery, prune_network
from spear_gym.simulation.differentiable import forward
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.snn.graph import SpikingGraph

GAINS = (2.0, 3.0, 4.0, 6.0, 12.0)
"""Of the weights, one after the other, until every layer of neurons fires."""


def lively(make: Callable[[float], SpikingGraph], inputs: Tensor) -> SpikingGraph | None:
    """The first of a network's versions, by the gain of its weights, whose layers all fire."""
    for gain in GAINS:
        graph = make(gain)
        recorder = SpikeRecorder(graph, inputs, STEPS)
        recorder.run()
        if all(bool(spikes.any()) for spikes in recorder.spikes.values()):
            return graph
    return None


def check_whole(graph: SpikingGraph, inputs: Tensor) -> None:
    """What a workload checks of a network."""
    shown = inputs.transpose(0, 1) if graph.varying else inputs
    check_surgery(graph, shown[0] if graph.varying and graph.idiom == "step" else shown)
    check_simulation(graph, inputs, STEPS)


def made_exact(graph: SpikingGraph) -> None:
    """In float64, where snnTorch's surrogates end in `.float()`."""
    graph.model.double()
    for node in graph.neurons:
        module = graph.module(node)
        if graph.neuron(node).training_fallback(module) is not None:
            module.spike_grad = partial(_exactly, module.spike_grad)


def _exactly(surrogate: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return surrogate(at).to(at.dtype)


def assert_as_its_own_forward(graph: SpikingGraph, plan: Plan, inputs: Tensor) -> nn.Module:
    """Spikes and SynOps of a plan are those of the pruned network's own forward.

    Both in float64, where sums in another order do not move a spike.
    """
    simulator = SpikeRecorder(graph, inputs, STEPS)
    walk = simulator.run(plan)
    model = in_float64(prune_network(graph, plan))
    with Products() as products:
        own = run_own(graph, model, inputs, STEPS)
    assert set(own.spikes) == set(simulator.spikes)
    for name, expected in own.spikes.items():
        assert torch.equal(simulator.spikes[name], expected), name
    left = dict(walk.layers)
    for node in graph.connections:
        count, module = left.pop(node.name), model.get_submodule(str(node.module))
        expected = slow_count(module, node.shape, own.inputs[str(node.module)], node.analog)
        assert (count.macs if node.analog else count.synops) == expected, node.name
    assert sum(count.synops + count.macs for count in left.values()) == products.count
    return model


def assert_trained_as_its_own_forward(
    graph: SpikingGraph, model: nn.Module, inputs: Tensor, *, training: bool
) -> None:
    """The readout and its gradients, and what BatchNorm keeps, are those of its own forward."""
    mine, twin = model.train(training), copy.deepcopy(model).train(training)
    ours = forward(graph.rebind(mine), inputs, STEPS, training=training)
    theirs = own_readout(graph, twin, inputs, STEPS)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    weights = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype).view_as(ours)
    for readout in (ours, theirs):
        (weights * readout).sum().backward()
    moved = 0
    for (name, one), other in zip(mine.named_parameters(), twin.parameters(), strict=True):
        found, expected = (torch.zeros_like(p) if p.grad is None else p.grad for p in (one, other))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=f"gradient of {name}")
        moved += bool(expected.any())
    assert moved, "no parameter has a gradient"
    kept = twin.state_dict()
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=1e-6, atol=1e-6, msg=name)
