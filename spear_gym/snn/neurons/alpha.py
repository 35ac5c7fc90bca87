"""``snntorch.Alpha``: the membrane follows the difference of two currents that decay."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import snntorch as snn
import torch
from torch import Tensor

from spear_gym.snn.neurons.base import Model, State, Tensors


@dataclass(frozen=True)
class Alpha(Model):
    """e(t) = alpha * e(t-1) + x(t); i(t) = beta * i(t-1) - x(t); u(t) = tau * (e(t) + i(t)).

    tau = log(alpha) / (log(beta) - log(alpha)) + 1. After a spike "subtract" takes the threshold
    off e(t), sets i(t) to 0 and adds i(t-1) to u(t), as snnTorch 1.0 does; "zero" sets all three
    to 0.
    """

    module = snn.Alpha
    states = ("syn_exc", "syn_inh", "mem")
    own = MappingProxyType({"alpha": 0.9, "beta": 0.7})

    def prepared(self, tensors: Tensors) -> Tensors:
        """Clamps alpha and beta, and works out tau."""
        alpha, beta = tensors["alpha"].clamp(0, 1), tensors["beta"].clamp(0, 1)
        tau = torch.log(alpha) / (torch.log(beta) - torch.log(alpha)) + 1
        return {**tensors, "alpha": alpha, "beta": beta, "tau": tau}

    def charge(self, p: Tensors, state: State, now: Tensor, reset: Tensor) -> State:
        """See the class."""
        excited, inhibited, _ = state
        exc = p["alpha"] * excited + now
        inh = p["beta"] * inhibited - now
        mem = p["tau"] * (exc + inh)
        if self.reset == "subtract":
            return exc - p["threshold"] * reset, inh - inh * reset, mem + inhibited * reset
        if self.reset == "zero":
            return exc - exc * reset, inh - inh * reset, mem - mem * reset
        return exc, inh, mem
