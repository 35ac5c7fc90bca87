"""The general way: a copy of the user's own neuron, cut to the kept channels, steps itself.

It serves any neuron of snnTorch, or subclass, or patched instance, whose channels do not act on
one another. That this is so, that it starts from rest, and along which axis each of its tensors
is cut, is found by running it; a neuron for which it is not so is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.snn.errors import TraceError
from spear_gym.snn.neurons.base import MEMBRANE, Fire, Neuron, Stepper, Tensors, broadcast_axes
from spear_gym.snn.neurons.own import clear, copied, state_names, steps_itself

STEPS = 5
SAMPLES = 2
ANSWERS = 4096
"""Neuron updates at least that tell one behaviour from another."""
TOLERANCE = 1e-4
"""Of values that rounding may move, relative to the largest."""


@dataclass(frozen=True)
class General(Neuron):
    """A neuron that steps itself.

    Attributes:
        kind: the name of its class.
        reason: why it is not simulated by a model that is written out here.
        given: names of the states that the network hands back to it at every step.
        found: its tensors, and the axis along which each is cut, ``None`` for none.
        behaviour: a digest of what it answers a fixed input with.
    """

    kind: str
    reason: str
    given: tuple[str, ...]
    found: tuple[tuple[str, int | None], ...]
    behaviour: str

    @property
    def name(self) -> str:
        """Its class."""
        return self.kind

    @property
    def parameters(self) -> tuple[str, ...]:
        """All tensors that it holds and that are no states."""
        return tuple(name for name, _ in self.found)

    def axes(self, name: str, tensor: Tensor, dims: int) -> tuple[int, ...]:
        """As found."""
        axis = dict(self.found)[name]
        return () if axis is None else (axis,)

    def stepper(
        self, module: snn.SpikingNeuron, tensors: Tensors, like: Tensor, fire: Fire
    ) -> Stepper:
        """Fires as it does by itself, so with its own surrogate gradient."""
        return steps_itself(copied(module, tensors), self.given)

    def describe(self) -> str:
        """Its class and its behaviour."""
        return f"{self.kind}(steps itself, {self.behaviour})"

    def scoring_fallback(self, tensors: Tensors) -> str | None:
        """Why it steps itself."""
        return self.reason

    def training_fallback(self, module: snn.SpikingNeuron) -> str | None:
        """Why it steps itself."""
        return self.reason


@torch.no_grad()
def examined(
    name: str,
    neuron: snn.SpikingNeuron,
    shape: tuple[int, ...],
    given: tuple[str, ...],
    reason: str,
) -> General:
    """Finds out how a neuron can be simulated by stepping itself.

    Args:
        name: for messages.
        neuron: at rest and on the CPU; left as it is.
        shape: of its input for one sample, ``(channels, ...)``.
        given: names of the states that the network hands to it.
        reason: why no model serves.

    Raises:
        TraceError: when it cannot be.
    """
    trial = _Trial(name, neuron, shape, given)
    trial.check_rest()
    trial.check_samples()
    trial.check_channels()
    axes = trial.axes()
    return General(type(neuron).__name__, reason, given, axes, trial.behaviour())


class _Trial:
    """A neuron run on made-up currents."""

    def __init__(
        self, name: str, neuron: snn.SpikingNeuron, shape: tuple[int, ...], given: tuple[str, ...]
    ) -> None:
        self.called = f"neuron '{name}' ({type(neuron).__name__})"
        self.neuron, self.given, self.channels = neuron, given, shape[0]
        self.generator = torch.Generator().manual_seed(0)
        self.gain = 1.0
        self.currents = self._drawn(shape)
        for _ in range(12):
            self.spikes, self.membranes = self._run(copied(neuron, {}), self.currents)
            if float((self.spikes != 0).double().mean()) > 0.1:
                break
            self.gain, self.currents = 2 * self.gain, 2 * self.currents

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(STEPS, SAMPLES, *shape, generator=self.generator)

    def _run(self, neuron: snn.SpikingNeuron, currents: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membrane potentials ``(time, batch, channels, ...)``."""
        step = steps_itself(neuron, self.given)
        try:
            recorded = [step(now) for now in currents]
        except Exception as error:  # whatever the user's code raises
            raise TraceError(
                f"{self.called} fails when it is stepped on a current of shape "
                f"{tuple(currents.shape[1:])}: {error}"
            ) from error
        spikes, membranes = zip(*recorded, strict=True)
        for what in (*spikes, *membranes):
            if not isinstance(what, Tensor) or what.shape != currents.shape[1:]:
                raise TraceError(
                    f"{self.called} gives spikes or a membrane potential `{MEMBRANE}` that are not "
                    "of the shape of its input; it must have one of each per input"
                )
        return torch.stack(spikes), torch.stack(membranes)

    def _same(self, found: tuple[Tensor, Tensor], where: Any) -> bool:
        """Whether a run gives what the whole one gave in a place."""
        pairs = zip(found, (self.spikes, self.membranes), strict=True)
        return all(same(one, whole[where], float(whole.abs().max())) for one, whole in pairs)

    def check_rest(self) -> None:
        """It does the same every time that it starts from rest."""
        used = copied(self.neuron, {})
        everywhere = ...
        if not self._same(self._run(used, self.currents), everywhere):
            raise TraceError(
                f"{self.called} does not do the same twice with the same input; random neurons "
                "are not supported"
            )
        clear(used)
        if not self._same(self._run(used, self.currents), everywhere):
            raise TraceError(
                f"{self.called} keeps a state that its reset_mem() does not clear; override "
                "reset_mem so that the neuron is as new after it"
            )

    def check_samples(self) -> None:
        """No sample acts on another."""
        alone = self._run(copied(self.neuron, {}), self.currents[:, :1])
        if not self._same(alone, (slice(None), slice(1))):
            raise TraceError(
                f"{self.called} lets the samples of a batch act on one another, which is not "
                "supported"
            )

    def check_channels(self) -> None:
        """No channel acts on another: what is not changed goes on as before."""
        other = self.gain * self._drawn(self.currents.shape[2:])
        for changed in _halves(self.channels):
            currents = self.currents.clone()
            currents[:, :, changed] = other[:, :, changed] + currents[:, :, changed]
            rest = (slice(None), slice(None), ~changed)
            spikes, membranes = self._run(copied(self.neuron, {}), currents)
            if not self._same((spikes[rest], membranes[rest]), rest):
                raise TraceError(
                    f"{self.called} lets its channels act on one another, so that removing one "
                    "would change the others; only neurons whose channels are independent are "
                    "supported"
                )

    def axes(self) -> tuple[tuple[str, int | None], ...]:
        """Along which axes its tensors are cut, so that what is left does what it did."""
        tensors = _tensors(self.neuron)
        failure = ""
        for choose in (_broadcasting, _first_of_size):
            axes = {
                name: choose(tensor, self.channels, self.currents.dim() - 2)
                for name, tensor in tensors.items()
            }
            try:
                if all(self._cut_is_same(tensors, axes, kept) for kept in _subsets(self.channels)):
                    return tuple(axes.items())
            except TraceError as error:
                failure = f": {error}"
        raise TraceError(
            f"{self.called} cannot be cut to fewer channels{failure}; give each of its tensors a "
            "shape that broadcasts against (channels, ...), such as (channels, 1, 1)"
        )

    def _cut_is_same(
        self, tensors: dict[str, Tensor], axes: dict[str, int | None], kept: Tensor
    ) -> bool:
        cut = {
            name: tensor if axis is None else tensor.index_select(axis, kept)
            for (name, tensor), axis in zip(tensors.items(), axes.values(), strict=True)
        }
        found = self._run(copied(self.neuron, cut), self.currents[:, :, kept])
        return self._same(found, (slice(None), slice(None), kept))

    def behaviour(self) -> str:
        """A digest of its spikes and membrane potentials, coarse enough for any machine."""
        shape = self.currents.shape[2:]
        samples = max(SAMPLES, ANSWERS // (2 * STEPS * prod(shape)))
        drawn = torch.randn(2 * STEPS, samples, *shape, generator=self.generator)
        answer = torch.stack(self._run(copied(self.neuron, {}), drawn * self.gain))
        rounded = (answer.double() * 16).round().to(torch.int32)
        return hashlib.sha256(rounded.numpy().tobytes()).hexdigest()[:16]


def same(one: Tensor, other: Tensor, size: float) -> bool:
    """Whether two recordings are equal but for rounding.

    Args:
        one: a recording.
        other: of the same shape.
        size: of the largest value.
    """
    close = torch.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * size, equal_nan=True)
    return bool(close.all())


def _tensors(neuron: snn.SpikingNeuron) -> dict[str, Tensor]:
    """All tensors of a neuron at rest that are no states."""
    states = state_names(neuron)
    held = {**neuron._parameters, **neuron._buffers, **vars(neuron)}
    return {k: v for k, v in held.items() if isinstance(v, Tensor) and k not in states}


def _broadcasting(tensor: Tensor, channels: int, dims: int) -> int | None:
    along = broadcast_axes(tensor, dims)
    return along[0] if along and tensor.shape[along[0]] == channels > 1 else None


def _first_of_size(tensor: Tensor, channels: int, dims: int) -> int | None:
    sizes = list(tensor.shape)
    axis = _broadcasting(tensor, channels, dims)
    return sizes.index(channels) if axis is None and channels > 1 and channels in sizes else axis


def _halves(channels: int) -> Iterator[Tensor]:
    """Masks such that for every two channels one of them marks the first and not the second."""
    index = torch.arange(channels)
    for bit in range((channels - 1).bit_length()):
        mask = (index >> bit) % 2 == 1
        yield mask
        yield ~mask


def _subsets(channels: int) -> list[Tensor]:
    """Channels to keep, for a trial: every second one, and one alone."""
    return [torch.arange(channels)[::2], torch.arange(channels)[-1:]]
