"""A layer of leaky neurons over time, run on pieces of a batch, without gradients."""

from __future__ import annotations

from math import prod

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.simulation.compiled import RESETS, kernels, obstacle
from spear_gym.simulation.layers import Affine, Tensors, apply_affine, channel_shape, fire

KERNEL = "neuron update: compiled by Numba"
"""How the statistics of a run name the fast way; every other entry is a fallback."""


class LeakyLayer:
    """A layer of ``snntorch.Leaky`` of one plan.

    Spikes are kept as bytes: a quarter of the memory and of its traffic.

    Args:
        neuron: for the reset mechanism and its delay.
        tensors: (sliced) beta, threshold and graded_spikes_factor.
        num_steps: time steps T.
        samples: samples that the pieces add up to.
        counted: the first sample whose spikes are counted.

    Attributes:
        way: how it is computed, for the statistics of a run.
    """

    way: str

    def __init__(
        self, neuron: snn.Leaky, tensors: Tensors, num_steps: int, samples: int, counted: int
    ) -> None:
        self.neuron = neuron
        self.tensors = tensors
        self.num_steps = num_steps
        self.samples = samples
        self.counted = counted
        self._spikes: Tensor | None = None
        self._parameters: dict[str, Tensor] = {}
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
        if self.way == KERNEL:
            self._run_kernel(current, affine, offset)
            return
        if affine is not None:
            current = apply_affine(current, affine, in_place=True)
        fired, _ = fire(self.neuron, self.tensors, current, self.num_steps)
        self._spikes[:, offset : offset + current.shape[1]] = fired

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
        return not bool((self.tensors["graded_spikes_factor"] == 1).all())

    def _prepare(self, current: Tensor) -> None:
        reason = self._obstacle(current)
        self.way = KERNEL if reason is None else f"neuron update: PyTorch, because {reason}"
        shape = (self.num_steps, self.samples, *current.shape[2:])
        # The general way multiplies by a grade itself.
        dtype = current.dtype if self._graded and reason is not None else torch.uint8
        self._spikes = torch.empty(shape, dtype=dtype, device=current.device)
        if reason is None:
            row = current.shape[2:]
            beta, threshold = self.tensors["beta"].clamp(0, 1), self.tensors["threshold"]
            self._parameters = {"beta": _spread(beta, row), "threshold": _spread(threshold, row)}
            self._counts = torch.zeros(prod(row), dtype=torch.int64)

    def _obstacle(self, current: Tensor) -> str | None:
        """Why the compiled loop does not serve, ``None`` if it does."""
        general = obstacle(current)
        if general is not None:
            return general
        if not self.neuron.reset_delay and self.neuron.reset_mechanism != "none":
            return "reset_delay=False"
        if not bool((self.tensors["threshold"] >= 0).all()):
            return "a threshold is negative"
        return None

    def _run_kernel(self, current: Tensor, affine: Affine | None, offset: int) -> None:
        module = kernels()
        assert module is not None
        assert self._spikes is not None
        assert self._counts is not None
        row = current.shape[2:]
        scale, shift = _identity(current) if affine is None else affine
        broadcast = channel_shape(current)
        module.leaky(
            current.contiguous().flatten(2).numpy(),
            _spread(scale.view(broadcast), row).numpy(),
            _spread(shift.view(broadcast), row).numpy(),
            self._parameters["beta"].to(current.dtype).numpy(),
            self._parameters["threshold"].to(current.dtype).numpy(),
            RESETS[self.neuron.reset_mechanism],
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
