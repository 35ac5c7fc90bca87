"""Synaptic operations (SynOps): exact fan-outs and integer counts.

    SynOps of a layer = mean over samples of  sum_t sum_i [x_i(t) != 0] * fanout_i

x_i(t) is input i of the layer at time step t; fanout_i counts the surviving synapses that leave
it, exactly at borders, strides, padding, dilation and groups (docs/definitions.md, "SynOps").
Zero-valued weights count. Totals are integers until the mean over samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from spear_gym import device
from spear_gym.snn.neurons.base import Wiring


@dataclass(frozen=True, slots=True)
class LayerCount:
    """What a connection layer did over all samples and time steps.

    Attributes:
        synops: synaptic operations; 0 for an analog layer.
        macs: multiply-accumulates per simulated step summed over steps; 0 unless analog.
        macs_once: the same with a static input computed once instead of at every step.
        active: non-zero inputs.
        inputs: inputs, active or not.
    """

    synops: int
    macs: int
    macs_once: int
    active: int
    inputs: int

    @property
    def input_rate(self) -> float:
        """Share of the inputs that are non-zero (firing rate per time step)."""
        return self.active / self.inputs if self.inputs else 0.0


def fanout_map(module: nn.Module, spatial: tuple[int, ...]) -> Tensor:
    """Synapses per output channel that leave each input position.

    Args:
        module: convolution or linear layer.
        spatial: spatial size of the input; for a linear layer ``()``, or that of its tokens.

    Returns:
        int64 of shape ``spatial``.
    """
    if isinstance(module, nn.Linear):
        return torch.ones(spatial, dtype=torch.int64)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    axes = [
        _axis_fanout(size, kernel, stride, dilation, *pads)
        for size, kernel, stride, dilation, pads in zip(
            spatial,
            module.kernel_size,
            module.stride,
            module.dilation,
            _paddings(module),
            strict=True,
        )
    ]
    total = axes[0]
    for axis in axes[1:]:
        total = np.multiply.outer(total, axis)
    return torch.from_numpy(total)


def recurrent_fanout(wiring: Wiring, neuron: nn.Module, spatial: tuple[int, ...]) -> Tensor:
    """The same of recurrent synapses; one that leads from each neuron to itself is one."""
    if wiring == "one-to-one":
        return torch.ones(spatial, dtype=torch.int64)
    return fanout_map(neuron.recurrent, spatial)  # type: ignore[arg-type]


def count_recurrence(spikes: Tensor, wiring: Wiring, fanout: Tensor) -> LayerCount:
    """Counts what a layer's spikes cause in the layer itself one time step later.

    Args:
        spikes: of the scored samples, ``(time, samples, channels, ...)``; those of the last time
            step come back after the end, so they are not counted.
        wiring: of the recurrent synapses.
        fanout: :func:`recurrent_fanout`.
    """
    arrived = Activity(activity(spikes[:-1]).per_position, tuple(spikes.shape))
    outputs = 1 if wiring == "one-to-one" else spikes.shape[2]
    return count_layer(arrived, fanout, outputs, len(spikes), analog=False)


def _paddings(module: nn.Conv1d | nn.Conv2d) -> list[tuple[int, int]]:
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(int(p), int(p)) for p in module.padding]


def _axis_fanout(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> np.ndarray:
    """How many (output, tap) pairs read each input position along one axis."""
    outputs = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    read = np.add.outer(np.arange(outputs) * stride - before, np.arange(kernel) * dilation)
    inside = read[(read >= 0) & (read < size)]
    return np.bincount(inside, minlength=size).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Activity:
    """Non-zero entries of an activation over all scored samples.

    Attributes:
        per_position: how many at each position, summed over time, samples and channels; int64
            of the activation's spatial shape, on the CPU.
        shape: ``(time, samples, channels, *spatial)``; a time axis of 1 stands for all steps.
    """

    per_position: Tensor
    shape: tuple[int, ...]

    @property
    def rate(self) -> float:
        """Share of the entries that are non-zero."""
        return int(self.per_position.sum()) / prod(self.shape)


def activity(value: Tensor) -> Activity:
    """Counts the non-zero entries of ``(time, samples, channels, *spatial)``.

    Args:
        value: the activation; uint8 stands for spikes, zeros and ones.
    """
    total = torch.zeros(value.shape[3:], dtype=torch.int64, device=value.device)
    spikes_here = value.dtype == torch.uint8 and value.device.type == "cpu"
    compiled = device.loops("spear_gym.simulation.loops") if spikes_here else None
    for frame in value:
        if compiled is not None:
            entries = frame.contiguous().flatten(1)
            counts = torch.zeros(entries.shape[1], dtype=torch.int64)
            compiled.count(entries.numpy(), counts.numpy())
            total += counts.view(frame.shape[1:]).sum(0)
        else:
            total += (frame != 0).sum((0, 1))
    return Activity(total.cpu(), tuple(value.shape))


def count_layer(
    active: Activity, fanout: Tensor, outputs_per_input: int, num_steps: int, *, analog: bool
) -> LayerCount:
    """Counts a layer's operations.

    Args:
        active: of its input.
        fanout: :func:`fanout_map`, of the input's spatial shape.
        outputs_per_input: output channels that each input channel reaches (outputs / groups).
        num_steps: time steps T.
        analog: count MACs instead.
    """
    steps, samples, channels = active.shape[:3]
    repeats = num_steps // steps
    inputs = prod(active.shape) * repeats
    spikes = int(active.per_position.sum()) * repeats
    if analog:
        once = steps * samples * channels * int(fanout.sum()) * outputs_per_input
        return LayerCount(0, once * repeats, once, spikes, inputs)
    weighted = int((active.per_position * fanout).sum())
    return LayerCount(weighted * outputs_per_input * repeats, 0, 0, spikes, inputs)


def count_product(left: Tensor, columns: int, num_steps: int, *, analog: bool) -> LayerCount:
    """Counts a product of two activations as if the second were the weights.

    Args:
        left: the first factor of the scored samples, ``(time, samples, ...)``; a time axis of 1
            stands for all steps.
        columns: entries of the product that each of its entries reaches.
        num_steps: time steps T.
        analog: count MACs instead.
    """
    repeats = num_steps // left.shape[0]
    active = int(torch.count_nonzero(left)) * repeats
    entries = left.numel() * repeats
    if analog:
        return LayerCount(0, entries * columns, left.numel() * columns, active, entries)
    return LayerCount(active * columns, 0, 0, active, entries)
