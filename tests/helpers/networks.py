"""Spiking networks in the idioms that users write, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import utils
from torch import Tensor, nn

from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace


class StepNet(nn.Module):
    """One time step on (1, 16, 16), hidden states, returns (spikes, membrane)."""

    def __init__(self, channels: tuple[int, int] = (6, 8), **neuron: object) -> None:
        super().__init__()
        a, b = channels
        self.conv1 = nn.Conv2d(1, a, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(a)
        self.lif1 = snn.Leaky(beta=0.6, init_hidden=True, **neuron)
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.lif2 = snn.Leaky(beta=0.6, init_hidden=True, **neuron)
        self.fc = nn.Linear(b * 4, 5)
        self.lif3 = snn.Leaky(beta=0.6, init_hidden=True, output=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool(self.lif1(self.bn1(self.conv1(x))))
        x = self.pool(self.lif2(self.bn2(self.conv2(x))))
        return self.lif3(self.fc(x.flatten(1)))


class TutorialNet(nn.Module):
    """snnTorch's tutorial on (1, 10, 10): explicit membranes, a loop, recordings stacked."""

    def __init__(self, steps: int = 4, hoist: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.hoist = hoist
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.lif1 = snn.Leaky(beta=0.5)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.lif2 = snn.Leaky(beta=0.5)
        self.fc1 = nn.Linear(8, 5)
        self.lif3 = snn.Leaky(beta=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.reset_mem()
        mem3 = torch.zeros(x.size(0), 5)
        spikes, membranes = [], []
        hoisted = F.max_pool2d(self.conv1(x), 2) if self.hoist else None
        for _ in range(self.steps):
            cur1 = F.max_pool2d(self.conv1(x), 2) if hoisted is None else hoisted
            spk1, mem1 = self.lif1(cur1, mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1), mem2)
            cur3 = self.fc1(spk2.view(spk2.size(0), -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spikes.append(spk3)
            membranes.append(mem3)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class FramesNet(nn.Module):
    """Indexes (time, batch, 2, 8, 8), resets inside forward, records into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.7, init_hidden=True, reset_mechanism="zero")
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.lif2 = snn.Leaky(beta=0.7, init_hidden=True)
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        steps, batch = x.size(0), x.size(1)
        recording = torch.zeros(steps, batch, 3)
        for step in range(steps):
            if x.dim() == 5:
                spikes = self.lif1(self.conv1(x[step]))
            spikes = F.avg_pool2d(self.lif2(self.conv2(spikes)), 2)
            recording[step] = self.fc(torch.flatten(spikes, 1))
        return recording


class ResidualNet(nn.Module):
    """A residual addition and a concatenation, current summed over time."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(6)
        self.lif0 = snn.Leaky(beta=0.5, init_hidden=True)
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.lif1 = snn.Leaky(beta=0.5, init_hidden=True)
        self.conv2 = nn.Conv2d(6, 4, 1)
        self.lif2 = snn.Leaky(beta=0.5, init_hidden=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(10 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.lif0, self.lif1, self.lif2):
            module.reset_mem()
        total = 0
        for _ in range(self.steps):
            a = self.lif0(self.bn0(self.stem(x)))
            b = a + self.lif1(self.bn1(self.conv1(a)))
            c = self.lif2(self.conv2(b))
            h = torch.cat([self.pool(b), self.pool(c)], dim=1)
            total = total + self.fc(self.drop(h.flatten(1)))
        return total / self.steps


class LoopNet(nn.Module):
    """conv - Leaky - pool - linear - Leaky with hidden states, on (1, 8, 8).

    Args:
        way: the forward pass, ``(net, inputs) -> output``: each test loops in its own way.
        layers: replaces or adds layers.
    """

    def __init__(self, way: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 16, 4)
        self.lif2 = snn.Leaky(beta=0.6, threshold=0.1, init_hidden=True, output=True)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def current(self, x: Tensor) -> Tensor:
        """The classifier's current at one time step."""
        return self.fc(self.pool(self.lif1(self.conv(x))).flatten(1))

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


class OptionNet(nn.Module):
    """One time step with every neuron made by ``leaky(channels, spatial dimensions)``."""

    def __init__(self, leaky: Callable[[int, int], snn.Leaky]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(5)
        self.lif1 = leaky(5, 2)
        self.conv2 = nn.Conv2d(5, 4, 3)
        self.lif2 = leaky(4, 2)
        self.pool = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(4 * 9, 6)
        self.lif3 = leaky(6, 0)
        self.fc2 = nn.Linear(6, 3)
        self.lif4 = leaky(3, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.bn1(self.conv1(x)))
        x = self.pool(self.lif2(self.conv2(x)))
        return self.lif4(self.fc2(self.lif3(self.fc1(x.flatten(1)))))


class GroupNet(nn.Module):
    """Depthwise, tied by an addition, concatenated, in groups, flattened; on (1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1)
        self.side = nn.Conv2d(6, 6, 1)
        self.wide = nn.Conv2d(6, 4, 1)
        self.before = nn.Conv2d(10, 8, 1)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2)
        self.hidden = nn.Linear(96, 7)
        self.fc = nn.Linear(7, 3)
        for name in ("a", "b", "c", "d", "e", "f", "g"):
            self.add_module(name, snn.Leaky(0.6, threshold=0.3, init_hidden=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.depthwise(self.stem(x)))
        x = self.b(self.point(x))
        x = x + self.c(self.side(x))
        x = torch.cat([x, self.d(self.wide(x))], dim=1)
        x = self.f(self.grouped(self.e(self.before(x))))
        return self.fc(self.g(self.hidden(F.avg_pool2d(x, 2).flatten(1))))


def enlivened(model: nn.Module, gain: float = 2.0) -> nn.Module:
    """Scales the weights so that neurons fire, and gives BatchNorm statistics of its own."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                module.weight.mul_(gain)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.3, 1.0)
                if module.affine:
                    module.weight.uniform_(0.8, 1.5)
                    module.bias.normal_(0, 0.3)
    return model.eval()


# ------------------------------------------------------------------ traced, with samples


def step_net() -> tuple[SpikingGraph, Tensor, int]:
    return trace(enlivened(StepNet()), torch.rand(4, 1, 16, 16)), torch.rand(9, 1, 16, 16), 4


def tutorial_net() -> tuple[SpikingGraph, Tensor, int]:
    return trace(enlivened(TutorialNet()), torch.rand(4, 1, 10, 10)), torch.rand(9, 1, 10, 10), 4


def residual_net() -> tuple[SpikingGraph, Tensor, int]:
    return trace(enlivened(ResidualNet()), torch.rand(4, 1, 8, 8)), torch.rand(9, 1, 8, 8), 3


def group_net() -> tuple[SpikingGraph, Tensor, int]:
    return trace(enlivened(GroupNet()), torch.rand(4, 1, 8, 8)), torch.rand(9, 1, 8, 8), 3


def frames_net() -> tuple[SpikingGraph, Tensor, int]:
    graph = trace(enlivened(FramesNet()), torch.rand(5, 4, 2, 8, 8), varying=True, events=True)
    return graph, (torch.rand(9, 5, 2, 8, 8) > 0.6).float(), 5


def static_events_net() -> tuple[SpikingGraph, Tensor, int]:
    """The same events at every time step: the first layer reads them once, and counts them all."""
    inputs = (torch.rand(9, 1, 16, 16) > 0.6).float()
    return trace(enlivened(StepNet()), inputs[:4], events=True), inputs, 4


def recurrent_net() -> tuple[SpikingGraph, Tensor, int]:
    """Spikes that come back by a convolution, by a linear layer, and each to its own neuron."""
    reset = {"init_hidden": True, "threshold": 0.3}
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        snn.RLeaky(0.7, conv2d_channels=5, kernel_size=3, **reset),
        nn.Conv2d(5, 4, 3, stride=2),
        snn.RLeaky(0.6, all_to_all=False, V=torch.rand(4, 1, 1) - 0.4, **reset),
        nn.Flatten(),
        nn.Linear(16, 7),
        snn.RSynaptic(0.5, 0.6, linear_features=7, reset_mechanism="zero", **reset),
        nn.Linear(7, 3),
    )
    return trace(enlivened(net), torch.rand(4, 1, 8, 8)), torch.rand(9, 1, 8, 8), 4


Made = Callable[[], tuple[SpikingGraph, Tensor, int]]
"""Makes a traced network, samples for it, and tells its time steps."""

TRACED: list[Made] = [
    static_events_net,
    step_net,
    tutorial_net,
    residual_net,
    group_net,
    frames_net,
    recurrent_net,
]
