"""Kinds of neurons, and what is changed about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import surrogate
from strangers.base import Stranger
from torch import Tensor, nn


class Step(nn.Module):
    """One time step with neurons of one kind, on (1, 8, 8)."""

    def __init__(self, neuron: Callable[..., nn.Module], **last: Any) -> None:
        super().__init__()
        self.conv1, self.n1 = nn.Conv2d(1, 6, 3, padding=1), neuron()
        self.conv2, self.n2 = nn.Conv2d(6, 5, 3), neuron()
        self.fc, self.n3 = nn.Linear(20, 4), neuron(**last)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(self.n1(self.conv1(x)), 2)
        x = self.n2(self.conv2(x))
        return self.n3(self.fc(x.flatten(1)))


class DecayedInput(snn.Leaky):
    """u = beta u + (1 - beta) x."""

    def _base_state_function(self, input_: Tensor) -> Tensor:
        beta = self.beta.clamp(0, 1)
        return beta * self.mem + (1 - beta) * input_


class ReluReset(snn.Leaky):
    """The membrane never falls below zero."""

    def _base_sub(self, input_: Tensor) -> Tensor:
        return F.relu(super()._base_sub(input_))


class HighThreshold(snn.Leaky):
    """Fires above another threshold than it resets by."""

    def fire(self, mem: Tensor) -> Tensor:
        return self.spike_grad(mem - 1.2 * self.threshold)


class Defaults(snn.Leaky):
    """Sets defaults, changes nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(beta=0.7, threshold=0.4, init_hidden=True, **options)


def kind(make: Callable[..., nn.Module], *values: Any, **options: Any) -> Callable[[], nn.Module]:
    """A network of a kind of neuron with hidden states."""
    return lambda: Step(lambda **last: make(*values, init_hidden=True, **options, **last))


def patched() -> nn.Module:
    """An instance whose method is replaced."""
    net = Step(lambda: snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True))
    net.n1.fire = lambda mem: (mem > 0.8).to(mem)  # type: ignore[assignment]
    return net


GROUPS = {"conv1": 6, "conv2": 5}

KINDS = [
    Stranger("Synaptic", "snn.Synaptic, hidden states",
             kind(snn.Synaptic, 0.6, 0.8, threshold=0.5), groups=GROUPS),
    Stranger("Alpha", "snn.Alpha, hidden states",
             kind(snn.Alpha, 0.9, 0.5, threshold=0.1), groups=GROUPS),
    Stranger("Lapicque", "snn.Lapicque, hidden states",
             kind(snn.Lapicque, R=5.1, C=0.3, threshold=0.3), groups=GROUPS),
    Stranger("learned decay", "snn.Leaky(learn_beta=True, learn_threshold=True)",
             kind(snn.Leaky, beta=0.8, threshold=0.5, learn_beta=True, learn_threshold=True),
             groups=GROUPS),
    Stranger("decay per channel", "snn.Leaky(beta=torch.rand(C, 1, 1))",
             lambda: _per_channel(), groups=GROUPS),
    Stranger("reset to zero", 'reset_mechanism="zero"',
             kind(snn.Leaky, beta=0.8, threshold=0.5, reset_mechanism="zero"), groups=GROUPS),
    Stranger("no reset delay", "reset_delay=False",
             kind(snn.Leaky, beta=0.8, threshold=0.5, reset_delay=False), groups=GROUPS),
    Stranger("another surrogate", "surrogate.fast_sigmoid(slope=25)",
             kind(snn.Leaky, beta=0.8, threshold=0.5, spike_grad=surrogate.fast_sigmoid(slope=25)),
             groups=GROUPS),
    Stranger("membrane readout", "output=True, no reset of the output neuron",
             lambda: Step(
                 lambda **last: snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True, **last),
                 output=True, reset_mechanism="none"),
             groups=GROUPS),
    Stranger("subclass with defaults", "class Mine(snn.Leaky) that only sets defaults",
             lambda: Step(Defaults), groups=GROUPS),
    Stranger("subclass: decayed input", "overrides _base_state_function",
             kind(DecayedInput, beta=0.6, threshold=0.2), groups=GROUPS),
    Stranger("subclass: no negative membrane", "overrides _base_sub",
             kind(ReluReset, beta=0.8, threshold=0.5), groups=GROUPS),
    Stranger("subclass: own threshold", "overrides fire",
             kind(HighThreshold, beta=0.8, threshold=0.5), groups=GROUPS),
    Stranger("patched instance", "neuron.fire = lambda mem: ...", patched, groups=GROUPS),
    Stranger("lateral inhibition", "snn.Leaky(inhibition=True)",
             kind(snn.Leaky, beta=0.8, threshold=0.5, inhibition=True), refused="inhibition"),
]  # fmt: skip


def _per_channel() -> nn.Module:
    net = Step(lambda: snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True))
    net.n1 = snn.Leaky(beta=torch.rand(6, 1, 1), threshold=0.5, init_hidden=True, learn_beta=True)
    return net
