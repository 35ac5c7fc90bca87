"""The loops of leaky neurons, compiled by Numba.

They do the same floating-point operations in the same order as :class:`leaky.Leaky` and
:class:`leaky_scan.LeakyScan` (Numba fuses and reorders nothing unless told to), so that results
are equal bit for bit; the tests hold them to it. All arrays are contiguous, float32 or float64
alike where not said otherwise, and their last axis runs over the neurons of one sample.
"""

from __future__ import annotations

import numpy as np

from spear_gym.device import Array, loop

BLOCK = 512
"""Neurons whose membranes, parameters and spikes are kept in the first-level cache at a time."""


@loop
def score(  # noqa: C901 - one loop nest; calls inside it would hide the order of operations
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
        reset: one of ``leaky.RESETS``; it follows a spike by one step.
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
def forward(  # noqa: C901 - one loop nest
    current: Array, beta: Array, threshold: Array, reset: int, membranes: Array, spikes: Array
) -> None:
    """All steps of a layer of leaky neurons, its membranes kept for the way back.

    Args:
        current: ``(time, batch, neurons)``, a time axis of 1 for a static input.
        beta: decay in [0, 1], ``(neurons,)``.
        threshold: not negative, ``(neurons,)``.
        reset: one of ``leaky.RESETS``; it follows a spike by one step.
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
def backward(
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
