"""``snntorch.Synaptic``: a synaptic current that decays drives the membrane potential."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
from torch import Tensor

from spear_gym.snn.neurons.base import Model, State, Tensors


@dataclass(frozen=True)
class Synaptic(Model):
    """i(t) = alpha * i(t-1) + x(t); u(t) = beta * u(t-1) + i(t) - r * threshold.

    "zero" sets u(t) to 0 after the input, unlike Leaky; i(t) is never reset.
    """

    module = snn.Synaptic
    states = ("syn", "mem")
    own = MappingProxyType({"alpha": 0.7, "beta": 0.8})
    has_delay = True

    def prepared(self, tensors: Tensors) -> Tensors:
        """Clamps alpha and beta."""
        decays = {name: tensors[name].clamp(0, 1) for name in self.own}
        return {**tensors, **decays}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        syn, mem = state
        syn = p["alpha"] * syn + now
        mem = p["beta"] * mem + syn
        if self.reset == "subtract":
            mem = mem - reset * p["threshold"]
        elif self.reset == "zero":
            mem = mem - mem * reset
        return syn, mem
