"""``snntorch.RLeaky``: Leaky with its own spikes of the step before as a second input."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
from torch import Tensor

from spear_gym.snn.neurons.base import State, Tensors
from spear_gym.snn.neurons.recurrent import Recurrent


@dataclass(frozen=True)
class RLeaky(Recurrent):
    """u(t) = beta * u(t-1) + x(t) + R s(t-1) - r * threshold.

    "zero" sets u(t) to 0 after the input, unlike Leaky.
    """

    module = snn.RLeaky
    states = ("spk", "mem")
    own = MappingProxyType({"beta": 0.8})
    has_delay = True

    def prepared(self, tensors: Tensors) -> Tensors:
        """Clamps beta."""
        return {**tensors, "beta": tensors["beta"].clamp(0, 1)}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        spikes, mem = state
        mem = p["beta"] * mem + now + self.returned(p, spikes)
        if self.reset == "subtract":
            mem = mem - reset * p["threshold"]
        elif self.reset == "zero":
            mem = mem - reset * mem
        return spikes, mem
