"""Networks on their way to the user, and the end of those that the user has dropped."""

from __future__ import annotations

import gc
import weakref

from snntorch import SpikingNeuron
from torch import nn

from spear_gym.snn.picklable import make_picklable
from spear_gym.snn.trace import register_neurons

_HANDED_OVER: list[weakref.ref[nn.Module]] = []


def hand_over(model: nn.Module) -> nn.Module:
    """Registers a network's neurons with snnTorch, and strikes off those that nobody holds.

    The network can be pickled afterwards: closures that its neurons fire by are replaced.

    snnTorch's list keeps every neuron, and its membranes, for ever: a process that fine-tunes plan
    after plan would keep all of them. Neurons of networks handed over earlier leave the list here
    once it is the last to hold them; those in use stay, whatever module they are in by now.
    """
    _strike_off_dropped()
    register_neurons(make_picklable(model))
    neurons = (m for m in model.modules() if isinstance(m, SpikingNeuron))
    _HANDED_OVER.extend(weakref.ref(neuron) for neuron in neurons)
    return model


def _strike_off_dropped() -> None:
    instances = SpikingNeuron.instances
    ours = {id(reference()) for reference in _HANDED_OVER}
    listed = [weakref.ref(neuron) for neuron in instances if id(neuron) in ours]
    instances[:] = [neuron for neuron in instances if id(neuron) not in ours]
    gc.collect()  # neurons hold their own methods, so they do not go by themselves
    # Whoever is alive off the list is held by somebody else.
    instances += [neuron for neuron in (reference() for reference in listed) if neuron is not None]
    _HANDED_OVER[:] = [reference for reference in _HANDED_OVER if reference() is not None]
