"""Ways in which users write the loop of a spiking network, and networks written so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from networks import FramesNet, LoopNet, ResidualNet, StepNet, TutorialNet
from reference import reset_own
from snntorch import utils
from torch import Tensor, nn

from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.zoo import digits_net

STEPS = 3


def leaky(**options: Any) -> snn.Leaky:
    return snn.Leaky(beta=0.6, threshold=0.3, init_hidden=True, **options)


def images(batch: int = 4, *shape: int) -> Tensor:
    return torch.rand(batch, *(shape or (1, 8, 8)))


def widths(graph: SpikingGraph) -> dict[str, int]:
    return {group.name: group.channels for group in graph.groups}


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(6, 6, 3, padding=1, **options)


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


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    # name: the module, its input, whether that is frames
    "step": (StepNet, (4, 1, 16, 16), False),
    "tutorial": (TutorialNet, (4, 1, 10, 10), False),
    "frames": (FramesNet, (5, 4, 2, 8, 8), True),
    "residual": (ResidualNet, (4, 1, 8, 8), False),
    "utils.reset": (lambda: LoopNet(reset_by_utils), (4, 1, 8, 8), False),
    "not in snnTorch's list": (lambda: digits_net(0), (4, 1, 8, 8), False),
}
