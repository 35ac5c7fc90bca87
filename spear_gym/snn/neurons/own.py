"""A user's own neuron: copied, brought to rest, and stepped by its own forward."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.snn.neurons.base import MEMBRANE, Stepper, Tensors
from spear_gym.snn.neurons.recurrent import tie


def state_names(neuron: snn.SpikingNeuron) -> tuple[str, ...]:
    """Names of a neuron's states: buffers that are not saved, and a membrane that is no buffer."""
    kept = [name for name in neuron._buffers if name in neuron._non_persistent_buffers_set]
    return (*kept, MEMBRANE) if MEMBRANE in vars(neuron) else tuple(kept)


def clear(neuron: snn.SpikingNeuron) -> None:
    """Brings a neuron to rest, by its own ``reset_mem`` if it has one.

    ``snntorch.utils.reset`` resets whatever is registered globally instead of the module it is
    given, and misses deep copies.
    """
    reset = getattr(neuron, "reset_mem", None)
    if reset is not None:
        reset()
    for name in state_names(neuron):
        state = getattr(neuron, name)
        # What its own reset has set to something is where it starts from.
        if state is not None and (reset is None or not bool(state.any())):
            setattr(neuron, name, state.detach().new_zeros(0))
    neuron.__dict__.pop("reset", None)


def copied(neuron: snn.SpikingNeuron, tensors: Tensors) -> snn.SpikingNeuron:
    """A copy at rest that holds the given tensors instead of its own, by name.

    The tensors themselves are in it, so that gradients reach them.
    """
    memo: dict[int, object] = {}
    for value in (*neuron._buffers.values(), *vars(neuron).values()):
        if isinstance(value, Tensor) and value.grad_fn is not None:
            memo[id(value)] = value.detach()  # a state that a forward pass left
    memo |= {id(attrgetter(name)(neuron)): tensor for name, tensor in tensors.items()}
    duplicate = copy.deepcopy(neuron, memo)
    tie(duplicate)
    clear(duplicate)
    return duplicate


def on_cpu(neuron: snn.SpikingNeuron) -> snn.SpikingNeuron:
    """A copy at rest on the CPU, for trials that end alike wherever the network is."""
    duplicate = copied(neuron, {}).cpu()
    for name, value in list(vars(duplicate).items()):
        if isinstance(value, Tensor):
            setattr(duplicate, name, value.cpu())
    tie(duplicate)
    return duplicate


def steps_itself(neuron: snn.SpikingNeuron, given: tuple[str, ...] = ()) -> Stepper:
    """Steps a neuron, which is at rest, by its own forward.

    Args:
        neuron: keeps its state in itself.
        given: names of the states that its forward is handed back at every step; none are where
            the neuron keeps them.
    """
    # Its forward and not its call, which would run hooks.
    forward: Callable[..., Any] = neuron.forward
    names = tuple(inspect.signature(forward).parameters)[1:]
    states: dict[str, Tensor] = {}

    def step(now: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal states
        if not states:
            states = {name: torch.zeros_like(now) for name in given}
        output = forward(now, **{name: states[name] for name in given})
        spikes, *after = output if isinstance(output, tuple) else (output,)
        states = dict(zip(names, after, strict=False))
        membrane = getattr(neuron, MEMBRANE)
        return spikes.to(now.dtype), membrane

    return step
