"""``snntorch.Lapicque``: Leaky in the quantities of an RC circuit."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
from torch import Tensor

from spear_gym.snn.neurons.base import Model, State, Tensors


@dataclass(frozen=True)
class Lapicque(Model):
    """u(t) = x(t) * dt / C + (1 - dt / (R * C)) * u(t-1) - r * threshold.

    "zero" sets u(t) to 0 after the input. snnTorch keeps beta beside R and C and does not read it.
    """

    module = snn.Lapicque
    states = ("mem",)
    own = MappingProxyType({"R": 2.0, "C": 1.5, "time_step": 0.5, "beta": 0.8})

    def prepared(self, tensors: Tensors) -> Tensors:
        """The rate at which the circuit discharges."""
        time = tensors["R"] * tensors["C"]
        return {**tensors, "rate": 1 / time, "kept": 1 - tensors["time_step"] / time}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        (mem,) = state
        mem = now * p["R"] * p["rate"] * p["time_step"] + p["kept"] * mem
        if self.reset == "subtract":
            mem = mem - reset * p["threshold"]
        elif self.reset == "zero":
            mem = mem - reset * mem
        return (mem,)
