"""Neuron models: one file each, one line each in the table, and one loop over time for all.

A model that is not in the table runs the *general* way (:mod:`spear_gym.snn.neurons.general`): a
copy of the user's own neuron steps itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.snn.neurons.alpha import Alpha
from spear_gym.snn.neurons.base import Fire, Model, Neuron, Tensors
from spear_gym.snn.neurons.lapicque import Lapicque
from spear_gym.snn.neurons.leaky import Leaky
from spear_gym.snn.neurons.rleaky import RLeaky
from spear_gym.snn.neurons.rsynaptic import RSynaptic
from spear_gym.snn.neurons.synaptic import Synaptic

MODELS: tuple[type[Model], ...] = (Leaky, Synaptic, Alpha, Lapicque, RLeaky, RSynaptic)
"""The table: what is written out here, by the class of snnTorch that it stands for."""

__all__ = ["MODELS", "Neuron", "Tensors", "over_time", "own_tensors", "with_surrogate"]


def over_time(
    neuron: Neuron,
    module: snn.SpikingNeuron,
    tensors: Tensors,
    current: Tensor,
    num_steps: int,
    *,
    training: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs a layer of neurons over time, from rest: the one loop, for scoring and for autograd.

    Args:
        neuron: how it is stepped.
        module: the user's neuron.
        tensors: (sliced) tensors in the place of the module's own, by name.
        current: ``(time, batch, channels, ...)``, a time axis of 1 for a static input.
        num_steps: time steps T.
        training: fire with the user's surrogate gradient.

    Yields:
        Spikes and membrane potentials after every step, each ``(batch, channels, ...)``.
    """
    # Unbound once: indexing step by step would fill a zero gradient of full length at every step.
    frames = current.unbind(0)
    step = neuron.stepper(module, tensors, frames[0], with_surrogate(module) if training else _hard)
    for t in range(num_steps):
        yield step(frames[t if len(frames) > 1 else 0])


def own_tensors(neuron: Neuron, module: snn.SpikingNeuron) -> dict[str, Tensor]:
    """The module's own tensors, as :func:`over_time` takes them."""
    return {name: attrgetter(name)(module) for name in neuron.parameters}


def _hard(mem: Tensor, threshold: Tensor) -> Tensor:
    return torch.gt(mem, threshold, out=torch.empty_like(mem))


def with_surrogate(module: snn.SpikingNeuron) -> Fire:
    """Fires with the user's surrogate gradient."""
    surrogate = module.spike_grad
    return lambda mem, threshold: surrogate(mem - threshold)
