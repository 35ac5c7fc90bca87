"""The loops of training, compiled by Numba; bit for bit what :mod:`gradients` does in PyTorch.

All arrays are contiguous, float32 or float64 alike, and their last axis runs over the neurons or
the positions of one sample.
"""

from __future__ import annotations

import numpy as np

from spear_gym.simulation.kernels import Array, loop


@loop
def leaky_forward(  # noqa: C901 - one loop nest
    current: Array, beta: Array, threshold: Array, reset: int, membranes: Array, spikes: Array
) -> None:
    """All steps of a layer of leaky neurons, its membranes kept for the way back.

    Args:
        current: ``(time, batch, neurons)``, a time axis of 1 for a static input.
        beta: decay in [0, 1], ``(neurons,)``.
        threshold: not negative, ``(neurons,)``.
        reset: one of ``compiled.RESETS``; it follows a spike by one step.
        membranes: ``(num_steps, batch, neurons)``, written.
        spikes: the same, written.
    """
    steps, batch, neurons = membranes.shape
    zero = np.zeros(1, membranes.dtype)[0]  # a plain 0 would raise the product to double precision
    for sample in range(batch):
        for step in range(steps):
            now = current[step if current.shape[0] > 1 else 0, sample]
            mem, fired = membranes[step, sample], spikes[step, sample]
            if step == 0:
                for j in range(neurons):
                    mem[j] = now[j]
            else:
                before, reached = membranes[step - 1, sample], spikes[step - 1, sample]
                if reset == 1:
                    for j in range(neurons):
                        charged = before[j] * beta[j] + now[j]
                        mem[j] = charged - reached[j] * threshold[j]
                elif reset == 2:
                    for j in range(neurons):
                        kept = before[j] if reached[j] == 0 else before[j] * zero
                        mem[j] = kept * beta[j] + now[j]
                else:
                    for j in range(neurons):
                        mem[j] = before[j] * beta[j] + now[j]
            for j in range(neurons):
                fired[j] = mem[j] > threshold[j]


@loop
def leaky_backward(
    membranes: Array,
    beta: Array,
    threshold: Array,
    resets_to_zero: bool,
    constants: Array,
    grad: Array,
    out: Array,
) -> None:
    """Back through time with the arctan surrogate of snnTorch.

    Its derivative is a / 2 / (1 + (pi / 2 * a * u)^2) at u, the distance from the threshold.

    Args:
        membranes: ``(num_steps, batch, neurons)``.
        beta: decay, ``(neurons,)``.
        threshold: ``(neurons,)``.
        resets_to_zero: the membrane forgets when it fires.
        constants: pi / 2 * a, a / 2 and 1, in the arrays' dtype.
        grad: of the spikes, ``(num_steps, batch, neurons)``.
        out: gradient of the currents, the same, written.
    """
    steps, batch, neurons = membranes.shape
    inner, outer, one = constants[0], constants[1], constants[2]
    zero = one - one
    for sample in range(batch):
        for back in range(steps):
            step = steps - 1 - back
            mem, above, here = membranes[step, sample], grad[step, sample], out[step, sample]
            for j in range(neurons):
                scaled = inner * (mem[j] - threshold[j])
                slope = one / (one + scaled * scaled) * outer
                here[j] = slope * above[j]
            if step == steps - 1:
                continue
            later = out[step + 1, sample]
            if resets_to_zero:
                for j in range(neurons):
                    carried = later[j] * beta[j]
                    here[j] += carried if mem[j] <= threshold[j] else carried * zero
            else:
                for j in range(neurons):
                    here[j] += later[j] * beta[j]


@loop
def norm_forward(
    value: Array,
    mean: Array,
    inverse: Array,
    weight: Array,
    bias: Array,
    normalised: Array,
    out: Array,
) -> None:
    """Normalises every time step by itself, then scales and shifts.

    Args:
        value: ``(time, batch, channels, positions)``.
        mean: ``(time, channels)``.
        inverse: one over the standard deviation, ``(time, channels)``.
        weight: ``(channels,)``.
        bias: ``(channels,)``.
        normalised: like ``value``, written.
        out: like ``value``, written.
    """
    steps, batch, channels, positions = value.shape
    for step in range(steps):
        for sample in range(batch):
            for channel in range(channels):
                source, kept = value[step, sample, channel], normalised[step, sample, channel]
                target = out[step, sample, channel]
                centre, factor = mean[step, channel], inverse[step, channel]
                scale, shift = weight[channel], bias[channel]
                for j in range(positions):
                    unit = (source[j] - centre) * factor
                    kept[j] = unit
                    target[j] = unit * scale + shift


@loop
def norm_backward(
    normalised: Array, grad: Array, along: Array, total: Array, factor: Array, out: Array
) -> None:
    """(normalised * along + grad - total) * factor, per time step and channel.

    Args:
        normalised: ``(time, batch, channels, positions)``.
        grad: the same.
        along: ``(time, channels)``.
        total: ``(time, channels)``.
        factor: ``(time, channels)``.
        out: like ``grad``, written.
    """
    steps, batch, channels, positions = grad.shape
    for step in range(steps):
        for sample in range(batch):
            for channel in range(channels):
                units, above = normalised[step, sample, channel], grad[step, sample, channel]
                target = out[step, sample, channel]
                slope, shift = along[step, channel], total[step, channel]
                scale = factor[step, channel]
                for j in range(positions):
                    target[j] = (units[j] * slope + above[j] - shift) * scale


@loop
def pool_forward(value: Array, out: Array, winner: Array) -> None:
    """Max pooling by 2; the first of equal maxima wins, as in PyTorch.

    Args:
        value: ``(planes, height, width)``, even.
        out: ``(planes, height / 2, width / 2)``, written.
        winner: uint8, which of the four (row by row), written.
    """
    planes, height, width = out.shape
    for plane in range(planes):
        for row in range(height):
            upper, lower = value[plane, 2 * row], value[plane, 2 * row + 1]
            best, which = out[plane, row], winner[plane, row]
            for j in range(width):
                top, index = upper[2 * j], 0
                if upper[2 * j + 1] > top or upper[2 * j + 1] != upper[2 * j + 1]:
                    top, index = upper[2 * j + 1], 1
                if lower[2 * j] > top or lower[2 * j] != lower[2 * j]:
                    top, index = lower[2 * j], 2
                if lower[2 * j + 1] > top or lower[2 * j + 1] != lower[2 * j + 1]:
                    top, index = lower[2 * j + 1], 3
                best[j], which[j] = top, index


@loop
def pool_backward(grad: Array, winner: Array, out: Array) -> None:
    """Hands every gradient to the entry that won.

    Args:
        grad: ``(planes, height / 2, width / 2)``.
        winner: what :func:`pool_forward` wrote.
        out: ``(planes, height, width)``, written.
    """
    planes, height, width = grad.shape
    out[:] = 0
    for plane in range(planes):
        for row in range(height):
            above, which = grad[plane, row], winner[plane, row]
            for j in range(width):
                out[plane, 2 * row + (which[j] >> 1), 2 * j + (which[j] & 1)] = above[j]
