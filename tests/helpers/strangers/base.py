"""What a network of the catalogue is, and the two bodies that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 4


@dataclass(frozen=True)
class Stranger:
    """A network as somebody writes it, and what must become of it.

    Attributes:
        name: short, unique.
        idiom: how it is written, in words.
        make: the network, untrained.
        frame: shape of a sample at one time step.
        varying: a sample has a frame per time step.
        batch_first: what is said of the order of the frames' axes; ``None`` where it is found out.
        groups: what can be pruned, and how many channels it has.
        fixed: layers that cannot -> why.
        refused: how the message starts, or a part of it, of a network that is not taken.
        draws: it drops at random in training, so that a training step cannot be repeated.
    """

    name: str
    idiom: str
    make: Callable[[], nn.Module]
    frame: tuple[int, ...] = (1, 8, 8)
    varying: bool = False
    batch_first: bool | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    draws: bool = False

    def inputs(self, samples: int = 4) -> Tensor:
        """Samples first, ``(samples, [time,] channel, ...)``."""
        time = (STEPS,) if self.varying else ()
        return 2 * torch.rand(samples, *time, *self.frame)

    def example(self, samples: int = 4) -> Tensor:
        """Samples as ``trace`` takes them."""
        given = self.inputs(samples)
        return given.transpose(0, 1) if self.varying else given


def lif(**options: Any) -> snn.Leaky:
    """A neuron that keeps its membrane itself."""
    return snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True, **options)


def cell(**options: Any) -> snn.Leaky:
    """A neuron that is handed its membrane."""
    return snn.Leaky(beta=0.8, threshold=0.5, **options)


class Function(nn.Module):
    """A function of the module itself and the input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **own: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in own.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Between(nn.Module):
    """conv1, something, lif1, conv2, lif2, pool, fc, lif3: one time step of an image.

    Args:
        middle: what stands between.
        after: behind the neuron, not before it.
        channels: of conv1 and of what conv2 reads.
    """

    def __init__(
        self, middle: nn.Module, *, after: bool = False, channels: tuple[int, int] = (6, 6)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 3, padding=1)
        self.middle = middle
        self.lif1 = lif()
        self.conv2 = nn.Conv2d(channels[1], 5, 3, padding=1)
        self.lif2 = lif()
        self.fc = nn.Linear(5 * 4, 4)
        self.lif3 = lif()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.middle(self.lif1(x)) if self.after else self.lif1(self.middle(x))
        x = F.adaptive_avg_pool2d(self.lif2(self.conv2(x)), 2)
        return self.lif3(self.fc(x.flatten(1)))


class Loop(nn.Module):
    """The tutorials' network: explicit membranes, handed on from step to step.

    Args:
        way: the forward pass, ``(net, inputs) -> output``.
        layers: replaces or adds layers.
    """

    def __init__(self, way: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.way = way
        self.conv1, self.lif1 = nn.Conv2d(1, 6, 3, padding=1), cell()
        self.conv2, self.lif2 = nn.Conv2d(6, 5, 3, padding=1), cell()
        self.fc, self.lif3 = nn.Linear(5 * 16, 4), cell()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def rest(self) -> list[Tensor]:
        """Membranes at rest."""
        return [neuron.init_leaky() for neuron in (self.lif1, self.lif2, self.lif3)]

    def step(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One time step from and to a list of membranes."""
        spk, mem1 = self.lif1(self.conv1(x), state[0])
        spk, mem2 = self.lif2(F.max_pool2d(self.conv2(spk), 2), state[1])
        spk, mem3 = self.lif3(self.fc(spk.flatten(1)), state[2])
        return spk, [mem1, mem2, mem3]

    def over(self, frames: Any) -> Tensor:
        """All time steps, ``(time, batch, classes)``."""
        state, recorded = self.rest(), []
        for frame in frames:
            spk, state = self.step(frame, state)
            recorded.append(spk)
        return torch.stack(recorded)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


LOOP = {"conv1": 6, "conv2": 5}
"""What can be pruned of a :class:`Loop`, or a :class:`Between`."""


def run(neuron: snn.Leaky, currents: Any) -> Tensor:
    """A neuron that is handed its membrane, over time."""
    mem, recorded = neuron.init_leaky(), []
    for current in currents:
        spk, mem = neuron(current, mem)
        recorded.append(spk)
    return torch.stack(recorded)
