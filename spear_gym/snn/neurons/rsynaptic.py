"""``snntorch.RSynaptic``: Synaptic with its own spikes of the step before as a second input."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
from torch import Tensor

from spear_gym.snn.neurons.base import State, Tensors
from spear_gym.snn.neurons.recurrent import Recurrent


@dataclass(frozen=True)
class RSynaptic(Recurrent):
    """i(t) = alpha * i(t-1) + x(t) + R s(t-1); u(t) = beta * u(t-1) + i(t) - r * threshold.

    "zero" sets u(t) to 0 after the input; i(t) is never reset. snnTorch 1.0 does not carry out
    ``reset_delay=False``.
    """

    module = snn.RSynaptic
    states = ("spk", "syn", "mem")
    own = MappingProxyType({"alpha": 0.7, "beta": 0.8})

    def prepared(self, tensors: Tensors) -> Tensors:
        """Clamps alpha and beta."""
        decays = {name: tensors[name].clamp(0, 1) for name in self.own}
        return {**tensors, **decays}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        spikes, syn, mem = state
        syn = p["alpha"] * syn + now + self.returned(p, spikes)
        mem = p["beta"] * mem + syn
        if self.reset == "subtract":
            mem = mem - reset * p["threshold"]
        elif self.reset == "zero":
            mem = mem - mem * reset
        return spikes, syn, mem
