"""Where people put time: first, second, folded into the batch, layer by layer, in a wrapper."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from snntorch import utils
from strangers.base import LOOP, STEPS, Between, Loop, Stranger, cell, lif, run
from torch import Tensor, nn


def second_axis(net: Loop, x: Tensor) -> Tensor:
    return net.over([x[:, t] for t in range(x.shape[1])])


def repeated_second(net: Loop, x: Tensor) -> Tensor:
    return second_axis(net, x.unsqueeze(1).repeat(1, STEPS, 1, 1, 1))


def into_a_buffer(net: Loop, x: Tensor) -> Tensor:
    state, recorded = net.rest(), torch.zeros(x.size(1), x.size(0), 4)
    for t in range(x.size(0)):
        spk, state = net.step(x[t], state)
        recorded[:, t] = spk
    return recorded


def folded(net: Loop, x: Tensor) -> Tensor:
    """Convolutions on (time * batch, ...), neurons step by step."""
    T, B = x.shape[:2]
    h = net.conv1(x.flatten(0, 1))
    h = run(net.lif1, h.view(T, B, *h.shape[1:]))
    h = F.max_pool2d(net.conv2(h.flatten(0, 1)), 2)
    h = run(net.lif2, h.view(T, B, *h.shape[1:]))
    return run(net.lif3, net.fc(h.flatten(2)))


def folded_batch_first(net: Loop, x: Tensor) -> Tensor:
    B, T = x.shape[:2]
    h = net.conv1(x.reshape(B * T, *x.shape[2:])).unflatten(0, (B, T))
    h = run(net.lif1, h.unbind(1))
    h = F.max_pool2d(net.conv2(h.flatten(0, 1)), 2).unflatten(0, (T, B))
    h = run(net.lif2, h)
    return run(net.lif3, net.fc(h.flatten(2))).transpose(0, 1)


def folded_norm(net: Any, x: Tensor) -> Tensor:
    """tdBN: one BatchNorm over time and batch."""
    T, B = x.shape[:2]
    h = net.bn(net.conv1(x.flatten(0, 1))).unflatten(0, (T, B))
    h = run(net.lif1, h)
    h = run(net.lif2, F.max_pool2d(net.conv2(h.flatten(0, 1)), 2).unflatten(0, (T, B)))
    return run(net.lif3, net.fc(h.flatten(2)))


def views(net: Loop, x: Tensor) -> Tensor:
    T, B = x.shape[:2]
    h = run(net.lif1, net.conv1(x.reshape(T * B, *x.shape[2:])).reshape(T, B, -1, 8, 8))
    h = F.max_pool2d(net.conv2(h.reshape(T * B, -1, 8, 8)), 2)
    h = run(net.lif2, h.view(T, B, -1))
    return run(net.lif3, net.fc(h.view(T * B, -1)).view(T, B, -1))


def scaled_recording(net: Loop, x: Tensor) -> Tensor:
    h = 0.5 * run(net.lif1, [net.conv1(frame) for frame in x])
    h = run(net.lif2, [F.max_pool2d(net.conv2(frame), 2) for frame in h])
    return run(net.lif3, [net.fc(frame.flatten(1)) for frame in h])


def membrane_clamped(net: Loop, x: Tensor) -> Tensor:
    state, recorded = net.rest(), []
    for frame in x:
        spk, state = net.step(frame, state)
        state[0].clamp_(min=0)
        recorded.append(spk)
    return torch.stack(recorded)


def layer_by_layer(net: Loop, x: Tensor) -> Tensor:
    h = run(net.lif1, [net.conv1(frame) for frame in x])
    h = run(net.lif2, [F.max_pool2d(net.conv2(frame), 2) for frame in h])
    return run(net.lif3, [net.fc(frame.flatten(1)) for frame in h]).sum(0)


def one_line_each(net: Loop, x: Tensor) -> Tensor:
    mem1, mem2, mem3 = net.rest()
    total = 0
    for t in range(len(x)):
        spk1, mem1 = net.lif1(net.conv1(x[t]), mem1)
        spk2, mem2 = net.lif2(F.max_pool2d(net.conv2(spk1), 2), mem2)
        spk3, mem3 = net.lif3(net.fc(spk2.flatten(1)), mem3)
        total = total + spk3
    return total / len(x)


def membranes(net: Loop, x: Tensor) -> Tensor:
    state, recorded = net.rest(), []
    for frame in x:
        _, state = net.step(frame, state)
        recorded.append(state[-1])
    return torch.stack(recorded)


def last_step(net: Loop, x: Tensor) -> Tensor:
    return net.over(x)[-1]


def largest(net: Loop, x: Tensor) -> Tensor:
    return net.over(x).max(0).values


def differences(net: Loop, x: Tensor) -> Tensor:
    return net.over(x[1:] - x[:-1])


class Wrapper(nn.Module):
    """Loops over a network of one time step."""

    def __init__(self, steps: int | None = None) -> None:
        super().__init__()
        self.net = Between(nn.BatchNorm2d(6))
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self.net)
        frames = x if self.steps is None else [x] * self.steps
        return torch.stack([self.net(frame) for frame in frames])


class TimeDistributed(nn.Module):
    """SpikingJelly's SeqToANN container: a stateless module on (time * batch, ...)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x.flatten(0, 1))
        return y.view(x.shape[0], x.shape[1], *y.shape[1:])


class MultiStep(nn.Module):
    """A neuron over a whole recording, reset at its start."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron = cell()

    def forward(self, x: Tensor) -> Tensor:
        return run(self.neuron, x)


def in_containers() -> nn.Module:
    return nn.Sequential(
        TimeDistributed(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)),
        MultiStep(),
        TimeDistributed(nn.MaxPool2d(2), nn.Conv2d(6, 5, 3)),
        MultiStep(),
        TimeDistributed(nn.Flatten(), nn.Linear(20, 4)),
        MultiStep(),
    )


class Sequences(nn.Module):
    """Sensor sequences (batch, time, features) through linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(10, 12), cell()
        self.fc2, self.lif2 = nn.Linear(12, 4), cell()

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        recorded = []
        for t in range(x.size(1)):
            spk1, mem1 = self.lif1(self.fc1(x[:, t, :]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            recorded.append(spk2)
        return torch.stack(recorded, dim=1)


class AllAtOnce(Sequences):
    """The linear layer is computed for all time steps at once."""

    def forward(self, x: Tensor) -> Tensor:
        h = run(self.lif1, self.fc1(x).transpose(0, 1))
        return run(self.lif2, self.fc2(h)).mean(0)


class Keywords(nn.Module):
    """Speech commands: 1-D convolutions on (batch, channels, length), shown at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv1d(4, 6, 3, padding=1), lif()
        self.bn = nn.BatchNorm1d(6)
        self.conv2, self.lif2 = nn.Conv1d(6, 5, 3, stride=2), lif()
        self.fc, self.lif3 = nn.Linear(5, 4), lif()

    def forward(self, x: Tensor) -> Tensor:
        h = self.lif1(self.bn(self.conv1(x)))
        h = self.lif2(self.conv2(F.avg_pool1d(h, 2)))
        return self.lif3(self.fc(h.mean(-1)))


def looped(name: str, idiom: str, way: Any, **options: Any) -> Stranger:
    """A loop that can be pruned throughout."""
    options = {"varying": True, "groups": LOOP} | options
    layers = options.pop("layers", dict)
    return Stranger(name, idiom, lambda: Loop(way, **layers()), **options)


TIMING = [
    looped("frames, time first", "for frame in x", lambda net, x: net.over(x)),
    looped("frames, second axis", "x[:, t]", second_axis),
    looped("frames, said to be batch first", "x[:, t], batch_first=True", second_axis,
           batch_first=True),
    looped("permuted", "x.permute(1, 0, 2, 3, 4)",
           lambda net, x: net.over(x.permute(1, 0, 2, 3, 4))),
    looped("transposed", "x.transpose(0, 1)", lambda net, x: net.over(x.transpose(0, 1))),
    looped("unbound", "x.unbind(1)", lambda net, x: net.over(x.unbind(1))),
    looped("output, batch first", "torch.stack(...).transpose(0, 1)",
           lambda net, x: net.over(x).transpose(0, 1)),
    looped("recorded in a buffer", "rec[:, t] = spk", into_a_buffer),
    looped("running mean", "total = total + spk; total / T", one_line_each),
    looped("membranes recorded", "torch.stack(mem_rec)", membranes),
    looped("softmax of the mean", "torch.stack(...).mean(0).softmax(-1)",
           lambda net, x: net.over(x).mean(0).softmax(-1)),
    looped("concatenated", "torch.cat([s.unsqueeze(0) for s in spikes])",
           lambda net, x: torch.cat([s.unsqueeze(0) for s in net.over(x)])),
    looped("repeated, time first", "x.unsqueeze(0).repeat(T, 1, 1, 1, 1)",
           lambda net, x: net.over(x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)), varying=False),
    looped("repeated, second axis", "x.unsqueeze(1).repeat(1, T, 1, 1, 1)", repeated_second,
           varying=False),
    looped("stacked copies", "torch.stack([x] * T)",
           lambda net, x: net.over(torch.stack([x] * STEPS)), varying=False),
    looped("expanded", "x.expand(T, *x.shape)",
           lambda net, x: net.over(x.expand(STEPS, *x.shape)), varying=False),
    looped("scaled frames", "(x - 0.5) / 0.5 on all frames",
           lambda net, x: net.over((x - 0.5) / 0.5)),
    looped("folded", "conv(x.flatten(0, 1)).view(T, B, ...)", folded),
    looped("folded, batch first", "x.reshape(B * T, ...), unflatten(0, (B, T))",
           folded_batch_first),
    looped("folded BatchNorm", "tdBN: bn(conv(x.flatten(0, 1)))", folded_norm,
           layers=lambda: {"bn": nn.BatchNorm2d(6)}),
    looped("layer by layer", "all time steps of a layer before the next layer", layer_by_layer),
    Stranger("wrapper over frames", "loops over a network of one step, utils.reset", Wrapper,
             varying=True, groups={"net.conv1": 6, "net.conv2": 5}),
    Stranger("wrapper over an image", "shows the image T times to a network of one step",
             lambda: Wrapper(STEPS), groups={"net.conv1": 6, "net.conv2": 5}),
    Stranger("containers over time", "nn.Sequential of time-distributed layers and neurons",
             in_containers, varying=True, groups={"0.layers.0": 6, "2.layers.1": 5}),
    Stranger("frames to a network of one step", "called once per frame, hidden states",
             lambda: Between(nn.BatchNorm2d(6)), varying=True, groups=LOOP),
    Stranger("sensor sequences", "(batch, time, features), linear layers, x[:, t, :]", Sequences,
             frame=(10,), varying=True, groups={"fc1": 12}),
    Stranger("sequences at once", "fc(x) on (batch, time, features)", AllAtOnce,
             frame=(10,), varying=True, groups={"fc1": 12}),
    Stranger("one-dimensional convolutions", "nn.Conv1d on (batch, channels, length)", Keywords,
             frame=(4, 16), groups={"conv1": 6, "conv2": 5}),
    looped("folded views", "x.reshape(T * B, ...), h.view(T, B, -1)", views),
    looped("softmax over the samples", "torch.stack(...).sum(0).softmax(0)",
           lambda net, x: net.over(x).sum(0).softmax(0), groups={},
           refused="function 'softmax', which reads a sum over time"),
    looped("recording scaled as a whole", "0.5 * torch.stack(spikes), read by a layer",
           scaled_recording, groups={},
           refused="a recording that was scaled as a whole; scale every time step"),
    looped("scaled by the step", "x[t] * (1 + 0.3 * t)",
           lambda net, x: net.over([f * (1 + 0.3 * t) for t, f in enumerate(x)]), groups={},
           refused="neuron 'lif1' is called again with another input"),
    looped("membrane clamped", "mem1.clamp_(min=0) between the steps", membrane_clamped,
           groups={}, refused="'clamp' reads a membrane potential"),
    looped("last step only", "torch.stack(...)[-1]", last_step),
    looped("largest over time", "torch.stack(...).max(0).values", largest, groups={},
           refused="forward's first output comes from function 'max'"),
    looped("differences of frames", "x[1:] - x[:-1]", differences, groups={},
           refused="function 'getitem', which looks along time"),
    looped("frames backwards", "x.flip(0)", lambda net, x: net.over(x.flip(0)), groups={},
           refused="function 'flip', which is called on all time steps at once"),
]  # fmt: skip
