"""A layer of neurons over time, run on pieces of a batch, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from spear_gym import device
from spear_gym.simulation.layers import Affine, apply_affine, channel_shape
from spear_gym.snn.neurons import Neuron, Tensors, over_time

KERNEL = "neuron update: compiled by Numba"
"""How the statistics of a run name the fast way; every other entry is a fallback."""


class NeuronLayer:
    """A layer of neurons of one plan.

    Spikes are kept as bytes: a quarter of the memory and of its traffic.

    Args:
        neuron: how it is simulated.
        module: the user's neuron.
        tensors: its (sliced) tensors.
        num_steps: time steps T.
        samples: samples that the pieces add up to.
        counted: the first sample whose spikes are counted.
        membrane: keep membrane potentials, too.

    Attributes:
        way: how it is computed, for the statistics of a run.
        membranes: ``(num_steps, samples, channels, ...)``, if they are kept.
    """

    way: str
    membranes: Tensor | None

    def __init__(
        self,
        neuron: Neuron,
        module: nn.Module,
        tensors: Tensors,
        num_steps: int,
        samples: int,
        counted: int,
        *,
        membrane: bool = False,
    ) -> None:
        self.neuron = neuron
        self.module = module
        self.tensors = tensors
        self.num_steps = num_steps
        self.samples = samples
        self.counted = counted
        self.membrane = membrane
        self.membranes = None
        self._spikes: Tensor | None = None
        self._score: Callable[..., None] | None = None
        self._parameters: list[Tensor] = []
        self._reset = 0
        self._counts: Tensor | None = None

    def run(self, current: Tensor, affine: Affine | None, offset: int) -> None:
        """Runs a piece of the batch.

        Args:
            current: ``(time, piece, channels, ...)``, a time axis of 1 for a static input;
                overwritten.
            affine: a normalisation still to be applied to it.
            offset: where the piece stands among the samples.
        """
        if self._spikes is None:
            self._prepare(current)
        assert self._spikes is not None
        if self._score is not None:
            self._run_compiled(current, affine, offset)
            return
        if affine is not None:
            current = apply_affine(current, affine, in_place=True)
        piece = slice(offset, offset + current.shape[1])
        steps = over_time(self.neuron, self.module, self.tensors, current, self.num_steps)
        for t, (spikes, membrane) in enumerate(steps):
            self._spikes[t, piece] = spikes
            if self.membranes is not None:
                self.membranes[t, piece] = membrane

    def spikes(self) -> Tensor:
        """``(num_steps, samples, channels, ...)``, uint8, or the neurons' dtype where graded."""
        assert self._spikes is not None
        if self._graded and self._spikes.dtype == torch.uint8:
            factor = self.tensors["graded_spikes_factor"]
            return self._spikes.to(factor.dtype) * factor
        return self._spikes

    def counts(self) -> Tensor | None:
        """Spikes of the counted samples by neuron ``(channels, ...)``, if the way counts them."""
        if self._counts is None or self._graded:
            return None
        assert self._spikes is not None
        return self._counts.view(self._spikes.shape[2:])

    @property
    def _graded(self) -> bool:
        return not self.neuron.is_binary(self.tensors)

    def _prepare(self, current: Tensor) -> None:
        reason = self._fallback_reason(current)
        self.way = KERNEL if reason is None else f"neuron update: PyTorch, because {reason}"
        shape = (self.num_steps, self.samples, *current.shape[2:])
        # The general way multiplies by a grade itself.
        dtype = current.dtype if self._graded and reason is not None else torch.uint8
        self._spikes = torch.empty(shape, dtype=dtype, device=current.device)
        if self.membrane:
            self.membranes = torch.empty(shape, dtype=current.dtype, device=current.device)
        if reason is None:
            row = current.shape[2:]
            loops = device.loops(str(self.neuron.loops))
            assert loops is not None
            self._score = loops.score
            parameters, self._reset = self.neuron.loop_arguments(self.tensors)
            self._parameters = [_spread(each, row).to(current.dtype) for each in parameters]
            self._counts = torch.zeros(prod(row), dtype=torch.int64)

    def _fallback_reason(self, current: Tensor) -> str | None:
        """Why no compiled loop serves, ``None`` if one does."""
        if self.membrane:
            return "its membrane is read out"
        return device.fallback_reason(current) or self.neuron.scoring_fallback(self.tensors)

    def _run_compiled(self, current: Tensor, affine: Affine | None, offset: int) -> None:
        assert self._score is not None
        assert self._spikes is not None
        assert self._counts is not None
        row = current.shape[2:]
        scale, shift = _identity(current) if affine is None else affine
        broadcast = channel_shape(current)
        self._score(
            current.contiguous().flatten(2).numpy(),
            _spread(scale.view(broadcast), row).numpy(),
            _spread(shift.view(broadcast), row).numpy(),
            *(each.numpy() for each in self._parameters),
            self._reset,
            offset,
            self.counted,
            self._spikes.flatten(2).numpy(),
            self._counts.numpy(),
        )


def _identity(current: Tensor) -> Affine:
    one = current.new_ones(current.shape[2])
    return one, torch.zeros_like(one)


def _spread(value: Tensor, row: torch.Size) -> Tensor:
    """A parameter that broadcasts against ``(batch, *row)``, one entry per neuron."""
    # Contiguous, or the compiled loops are not vectorised.
    return value.detach().expand(1, *row).reshape(-1).contiguous()
