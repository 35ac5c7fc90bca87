"""A BatchNorm with statistics and weights of its own for every time step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from reference import assert_same_spikes, random_plan, reset_own
from torch import Tensor, nn

from spear_gym.pruning.surgery import prune_network
from spear_gym.simulation.differentiable import forward
from spear_gym.simulation.own_forward import check_simulation
from spear_gym.snn.errors import TraceError
from spear_gym.snn.graph import Kind
from spear_gym.snn.trace import trace

STEPS = 4


class ThroughTime(nn.Module):
    """Two layers, each with snnTorch's list of BatchNorms."""

    def __init__(self, steps: int = STEPS, ahead: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.ahead = ahead
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norms1 = snn.BatchNormTT2d(6, STEPS)
        self.lif1 = snn.Leaky(beta=0.8, threshold=0.5)
        self.fc = nn.Linear(6 * 16, 4)
        self.norms2 = snn.BatchNormTT1d(4, STEPS)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.5)
        for norm in (*self.norms1, *self.norms2):
            norm.running_mean.uniform_(-0.3, 0.3)
            norm.running_var.uniform_(0.1, 0.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Any:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        current = self.conv(x) if self.ahead else None
        recorded = []
        for t in range(self.steps):
            now = current if current is not None else self.conv(x if x.dim() == 4 else x[t])
            spikes, mem1 = self.lif1(F.relu(self.norms1[t](now)), mem1)
            spikes = F.max_pool2d(spikes, 2).flatten(1)
            spikes, mem2 = self.lif2(self.norms2[t](self.fc(spikes)), mem2)
            recorded.append(spikes)
        return torch.stack(recorded)


def samples(varying: bool) -> Tensor:
    return torch.rand(*((STEPS,) if varying else ()), 6, 1, 8, 8) * 3


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_traced_as_one_layer(varying: bool, ahead: bool) -> None:
    if varying and ahead:
        pytest.skip("a convolution of frames is not the same at every step")
    inputs = samples(varying)
    graph = trace(ThroughTime(ahead=ahead), inputs, varying=varying)
    norms = [node for node in graph.nodes if node.kind is Kind.NORM]
    assert [(node.name, len(node.of_steps), node.static) for node in norms] == [
        ("norms1", STEPS, False),
        ("norms2", STEPS, False),
    ]
    check_simulation(graph, inputs.transpose(0, 1) if varying else inputs, STEPS)


def test_pruned_networks_spike_as_in_the_simulation() -> None:
    graph = trace(ThroughTime(), samples(varying=False))
    for seed in range(3):
        assert_same_spikes(graph, random_plan(graph, seed), samples(False), 0.001, steps=STEPS)


def test_trained_as_by_its_own_forward() -> None:
    """Gradients, and the running statistics of every step's module."""
    graph = trace(ThroughTime(), samples(varying=False))
    ours = prune_network(graph, random_plan(graph, 1))
    theirs = copy.deepcopy(ours).train()
    inputs = samples(varying=False)
    readout = forward(graph.rebind(ours), inputs, STEPS, training=True)
    reset_own(theirs)
    expected = theirs(inputs).sum(0)
    torch.testing.assert_close(readout, expected)
    weights = torch.linspace(-1, 1, readout.numel()).view_as(readout)
    (readout * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)
    for (name, one), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        if "norm" in name:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_another_number_of_steps_is_refused() -> None:
    with pytest.raises(
        TraceError, match="neuron 'lif1' is at its time step 3 but its input is from step 2"
    ):
        trace(Fewer(), samples(varying=False))


class Fewer(ThroughTime):
    """Uses the last BatchNorm again."""

    def forward(self, x: Tensor) -> Any:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        recorded = []
        for t in range(STEPS):
            spikes, mem1 = self.lif1(self.norms1[min(t, 2)](self.conv(x)), mem1)
            spikes, mem2 = self.lif2(self.fc(F.max_pool2d(spikes, 2).flatten(1)), mem2)
            recorded.append(spikes)
        return torch.stack(recorded)
