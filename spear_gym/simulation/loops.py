"""Loops over memory that PyTorch would need several passes for, compiled by Numba.

They do the same floating-point operations in the same order as :mod:`spear_gym.simulation.layers`
and :mod:`spear_gym.simulation.gradients` (Numba fuses and reorders nothing unless told to), so that
results are equal bit for bit; the tests hold them to it. Those of neurons lie with their model.
"""

from __future__ import annotations

import numpy as np

from spear_gym.device import Array, loop

BLOCK = 512
"""Entries that are kept in the first-level cache at a time."""


@loop
def count(values: Array, counts: Array) -> None:
    """Sums bytes over the leading axis.

    Args:
        values: uint8 ``(rows, entries)``.
        counts: int64 ``(entries,)``, added to.
    """
    rows, entries = values.shape
    tally = np.empty(BLOCK, np.int32)
    for start in range(0, entries, BLOCK):
        width = min(BLOCK, entries - start)
        tally[:] = 0
        for row in range(rows):
            value = values[row, start : start + width]
            for j in range(width):
                tally[j] += value[j]
        for j in range(width):
            counts[start + j] += tally[j]


@loop
def pool_spikes(value: Array, out: Array) -> None:
    """Max pooling by 2 of zeros and ones.

    Args:
        value: uint8 ``(planes, height, width)``, even.
        out: uint8 ``(planes, height / 2, width / 2)``, written.
    """
    planes, height, width = out.shape
    for plane in range(planes):
        for row in range(height):
            upper, lower = value[plane, 2 * row], value[plane, 2 * row + 1]
            best = out[plane, row]
            for j in range(width):
                best[j] = upper[2 * j] | upper[2 * j + 1] | lower[2 * j] | lower[2 * j + 1]


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
