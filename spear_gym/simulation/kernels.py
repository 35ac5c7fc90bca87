"""Loops over memory that PyTorch would need several passes for, compiled by Numba.

They do the same floating-point operations in the same order as :mod:`spear_gym.simulation.layers`
(Numba fuses and reorders nothing unless told to), so that results are equal bit for bit; the tests
hold them to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

BLOCK = 512
"""Neurons whose membranes, parameters and spikes are kept in the first-level cache at a time."""


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles a function when it is first called; its machine code is kept for later runs."""
    compiled: Callable[..., None]
    try:
        compiled = njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder to keep the machine code in
        compiled = njit(function, nogil=True, error_model="numpy")
    return compiled


@loop
def leaky(  # noqa: C901 - one loop nest; calls inside it would hide the order of operations
    current: Array,
    scale: Array,
    shift: Array,
    beta: Array,
    threshold: Array,
    reset: int,
    offset: int,
    counted: int,
    spikes: Array,
    counts: Array,
) -> None:
    """Normalises currents, runs leaky neurons over time and counts spikes, in one pass.

    Args:
        current: ``(time, batch, neurons)``, a time axis of 1 for a static input.
        scale: of the normalisation, ``(neurons,)``.
        shift: of the normalisation, ``(neurons,)``.
        beta: decay in [0, 1], ``(neurons,)``.
        threshold: not negative, ``(neurons,)``.
        reset: one of ``compiled.RESETS``; it follows a spike by one step.
        offset: where this batch stands in ``spikes``.
        counted: first sample of ``spikes`` whose spikes are counted.
        spikes: uint8 ``(num_steps, samples, neurons)``, written at ``offset``.
        counts: int64 ``(neurons,)``, added to.
    """
    steps, batch, neurons = spikes.shape[0], current.shape[1], current.shape[2]
    mem = np.empty(BLOCK, current.dtype)
    fired = np.empty(BLOCK, current.dtype)
    tally = np.empty(BLOCK, np.int32)
    zero = np.zeros(1, current.dtype)[0]  # a plain 0 would raise the product to double precision
    for start in range(0, neurons, BLOCK):
        width = min(BLOCK, neurons - start)
        scales, shifts = scale[start : start + width], shift[start : start + width]
        betas, thresholds = beta[start : start + width], threshold[start : start + width]
        tally[:] = 0
        for sample in range(batch):
            for step in range(steps):
                frame = step if current.shape[0] > 1 else 0
                now = current[frame, sample, start : start + width]
                out = spikes[step, offset + sample, start : start + width]
                if step == 0:
                    for j in range(width):
                        mem[j] = now[j] * scales[j] + shifts[j]
                elif reset == 1:
                    for j in range(width):
                        charged = mem[j] * betas[j] + (now[j] * scales[j] + shifts[j])
                        mem[j] = charged - fired[j] * thresholds[j]
                elif reset == 2:
                    for j in range(width):
                        kept = mem[j] if fired[j] == 0 else mem[j] * zero
                        mem[j] = kept * betas[j] + (now[j] * scales[j] + shifts[j])
                else:
                    for j in range(width):
                        mem[j] = mem[j] * betas[j] + (now[j] * scales[j] + shifts[j])
                for j in range(width):
                    above = mem[j] > thresholds[j]
                    fired[j] = above
                    out[j] = above
                if offset + sample >= counted:
                    for j in range(width):
                        tally[j] += out[j]
        for j in range(width):
            counts[start + j] += tally[j]


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
